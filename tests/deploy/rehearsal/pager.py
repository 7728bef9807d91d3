"""Receive Alertmanager's webhooks on port 8080 and print each alert's name and state, one per line."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer


class Pager(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for alert in message["alerts"]:
            print(alert["labels"]["alertname"], alert["status"], message["receiver"], flush=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log no requests, so that only alerts are printed."""


if __name__ == "__main__":
    HTTPServer(("", 8080), Pager).serve_forever()
