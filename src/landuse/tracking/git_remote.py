"""The address of the git remote, which MLflow records with every run and model: only its public part."""

from mlflow.tracking.context import registry
from mlflow.tracking.context.git_context import GitRunContext
from mlflow.utils.mlflow_tags import MLFLOW_GIT_REPO_URL

from landuse.core.addresses import public


class PublicOrigin(GitRunContext):
    """MLflow's git tags with secrets removed from the address: its own redaction misses unusual logins and queries."""

    def tags(self) -> dict[str, str]:
        tags: dict[str, str] = super().tags()  # type: ignore[no-untyped-call]  # untyped in MLflow
        return tags | {MLFLOW_GIT_REPO_URL: public(tags[MLFLOW_GIT_REPO_URL])} if MLFLOW_GIT_REPO_URL in tags else {}


def keep_origin_public() -> None:
    """Register PublicOrigin after MLflow's own git context, once: the last context that sets a tag wins."""
    contexts = registry._run_context_provider_registry
    if not any(isinstance(context, PublicOrigin) for context in contexts):
        contexts.register(PublicOrigin)  # type: ignore[no-untyped-call]  # untyped in MLflow
