"""What the gateway tells its operators: metrics and one log line a request."""
