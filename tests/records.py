"""Changes to what the registry has on record of a version, as somebody with access to it could make them."""

from mlflow import MlflowClient

from landuse.tracking import names


def set_facts(name: str, number: str, **facts: str) -> None:
    """Replace facts in the record of a version; underscores in their names stand for dots."""
    changed = {key.replace("_", "."): value for key, value in facts.items()}
    tags = MlflowClient().get_model_version(name, number).tags
    record = names.record_tag(names.parse_record(tags.get(names.RECORD, "")) | changed)
    MlflowClient().set_model_version_tag(name, number, names.RECORD, record[names.RECORD])
