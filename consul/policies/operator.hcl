# What a person sees: who leads (so that the drover command finds it), the items in
# Consul's pages, the services with their heartbeats. All changes go through drover.

key_prefix "drover/" {
  policy = "read"
}

# Hashes of clients' tokens.
key_prefix "drover/tokens/" {
  policy = "deny"
}

service "drover" {
  policy = "read"
}

service "drover-worker" {
  policy = "read"
}

session_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}

agent_prefix "" {
  policy = "read"
}
