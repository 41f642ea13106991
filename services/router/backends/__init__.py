"""What stands behind a target: sessions that workers dial, and HTTP endpoints."""
