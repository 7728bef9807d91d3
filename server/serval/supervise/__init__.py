"""Starting, watching and stopping the processes that make up one server on one machine."""
