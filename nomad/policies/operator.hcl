# What a person does with drover's jobs besides the drover command: look at them and
# their output, dispatch one by hand, stop one, and keep the workers' secrets.

namespace "default" {
  capabilities = ["list-jobs", "read-job", "read-logs", "read-fs", "dispatch-job", "submit-job"]

  variables {
    path "nomad/jobs" {
      capabilities = ["write", "read", "destroy", "list"]
    }
  }
}

node {
  policy = "read"
}
