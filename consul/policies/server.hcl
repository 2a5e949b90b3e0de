# What drover server does with Consul: all that is stored, its own service, and the
# services, checks and sessions that dead workers leave.

key_prefix "drover/" {
  policy = "write"
}

# Sessions are written by the name of the node whose agent is spoken to.
session_prefix "" {
  policy = "write"
}

service "drover" {
  policy = "write"
}

service "drover-worker" {
  policy = "write"
}

node_prefix "" {
  policy = "read"
}

# The doctor asks the agent for its version.
agent_prefix "" {
  policy = "read"
}
