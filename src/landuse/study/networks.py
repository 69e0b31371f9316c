"""The networks of a study: their settings, and the params file with which each is trained."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from landuse.core.addresses import public_values
from landuse.core.errors import LanduseError
from landuse.core.paths import PARAMS
from landuse.ml.weights import describe_misfit
from landuse.params import Params


@dataclass(frozen=True)
class Network:
    """A network of a study: its name in tables and charts, and its settings (keys of `extract`, `unfreeze_from`)."""

    name: str
    settings: dict[str, Any]

    def params_text(self) -> str:
        """Return the content of `params.yaml` with these settings, without the study and secrets in addresses."""
        content = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
        del content["study"]  # its networks take what they do not say from the other sections
        for key, value in self.settings.items():
            content["train" if key == "unfreeze_from" else "extract"][key] = value
        return yaml.safe_dump(public_values(content), sort_keys=False)


def resolve_networks(params: Params) -> list[Network]:
    """Return the networks of `study.networks`, each with all its settings. Raises LanduseError if two are the same."""
    if not params.study.networks:
        raise LanduseError(f"{PARAMS}: study.networks is missing, the networks to compare; presets/ shows examples")
    settings = []
    for entry in params.study.networks:
        extract, unfreeze_from = params.with_network(entry)
        keys = {key: value for key, value in asdict(extract).items() if key != "views"}
        settings.append(keys | {"unfreeze_from": unfreeze_from})
    for number, each in enumerate(settings):
        if each in settings[:number]:
            raise LanduseError(
                f"study.networks.{number} is the same network as study.networks.{settings.index(each)}, "
                "with what it takes from extract and train: remove one"
            )
    return [Network(name, each) for name, each in zip(network_names(settings), settings, strict=True)]


def network_names(settings: list[dict[str, Any]]) -> list[str]:
    """Name each network by its backbone and, if these are not unique, by the further settings in which they differ."""
    names = [str(each["backbone"]) for each in settings]
    shown = [each | {"weights": Path(each["weights"]).name, "path": each["weights"]} for each in settings]
    for key in ("alpha", "image_size", "unfreeze_from", "weights", "path"):
        if len({*names}) == len(names):
            break
        if len({each[key] for each in shown}) > 1:
            names = [f"{name} {each[key]}" for name, each in zip(names, shown, strict=True)]
    return names


def refuse_unfit_weights(networks: list[Network]) -> None:
    """Raise LanduseError if the weights of a network are missing or of another backbone, before any is trained."""
    for number, network in enumerate(networks):
        weights = network.settings["weights"]
        if misfit := describe_misfit(weights, network.settings["backbone"]):
            raise LanduseError(f"study.networks.{number}.weights = {weights}: {misfit}")
