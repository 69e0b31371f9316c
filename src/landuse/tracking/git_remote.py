"""The address of the git repository, which MLflow records with every run and model: only what is public of it."""

from mlflow.tracking.context import registry
from mlflow.tracking.context.git_context import GitRunContext
from mlflow.utils.mlflow_tags import MLFLOW_GIT_REPO_URL

from landuse.core.addresses import public


class PublicOrigin(GitRunContext):
    """The tags that MLflow reads from git, whose own redaction misses odd logins and queries."""

    def tags(self) -> dict[str, str]:
        found = super().tags()
        return found | {MLFLOW_GIT_REPO_URL: public(found[MLFLOW_GIT_REPO_URL])} if MLFLOW_GIT_REPO_URL in found else {}


def keep_origin_public() -> None:
    """Let MLflow ask PublicOrigin after its own context of git: the last one to answer counts."""
    contexts = registry._run_context_provider_registry
    if not any(isinstance(context, PublicOrigin) for context in contexts):
        contexts.register(PublicOrigin)
