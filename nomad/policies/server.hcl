# What drover server does with Nomad. submit-job lets its holder run anything that the
# namespace may run: give drover a namespace of its own where that matters.

namespace "default" {
  capabilities = ["list-jobs", "parse-job", "submit-job", "dispatch-job", "read-job", "read-logs"]
}

node {
  policy = "read"
}

agent {
  policy = "read"
}

# The doctor reads the scheduler's configuration.
operator {
  policy = "read"
}
