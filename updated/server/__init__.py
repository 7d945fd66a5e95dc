"""update-server: a small Omaha server for tests, labs and closed networks. The daemon never imports it."""
