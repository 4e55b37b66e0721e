"""A tool server: a small CRM that speaks MCP over mutual TLS and verifies the sidecar's tokens offline."""
