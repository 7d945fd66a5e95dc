"""update-ctl: people's way in. It asks the daemon over D-Bus and prints; it decides nothing itself."""
