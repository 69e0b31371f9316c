"""Long-running services behind the flows: Prefect server, MLflow server, worker and inbox watcher."""
