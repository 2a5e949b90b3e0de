# What drover-worker does with Consul: it claims its attempt, tells of it, and locks
# paths. It sees no items and no tokens, and can't write what only the leader may.

key_prefix "drover/claims/" {
  policy = "write"
}

key_prefix "drover/progress/" {
  policy = "write"
}

key_prefix "drover/results/" {
  policy = "write"
}

key_prefix "drover/locks/" {
  policy = "write"
}

# What the doctor's probe writes and removes.
key_prefix "drover/probes/" {
  policy = "write"
}

# Tasks that are too long for a dispatch.
key_prefix "drover/envelopes/" {
  policy = "read"
}

session_prefix "" {
  policy = "write"
}

service "drover-worker" {
  policy = "write"
}

node_prefix "" {
  policy = "read"
}
