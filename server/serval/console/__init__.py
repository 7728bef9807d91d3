"""Console: pages for a browser on the admin API's port. See server/CONSOLE.md."""
