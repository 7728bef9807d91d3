"""HTTP/1.1: connections, exchanges, sockets and the server that holds them."""
