"""Long-running services behind the flows: servers, worker, watcher of the inbox."""
