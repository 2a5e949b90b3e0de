# The worker as a plain process: for development clusters without Docker alone.
# Nothing keeps such a worker from the rest of its machine.

variable "job_id" {
  type        = string
  default     = "drover-worker"
  description = "Name of the job, which the names of its children begin with."
}

variable "datacenters" {
  type        = list(string)
  default     = ["*"]
  description = "Where workers may run."
}

variable "command" {
  type        = string
  description = "Path of the drover-worker binary on the node."
}

variable "consul_addr" {
  type        = string
  default     = "$${attr.unique.network.ip-address}:8500"
  description = "Consul agent that a worker reports to; by default the one of its node."
}

variable "memory" {
  type        = number
  default     = 4096
  description = "Hard limit of a worker's memory in MB; there is no swap."
}

variable "cores" {
  type        = number
  default     = 0
  description = "Whole cores reserved for a worker; 0 takes a share by cpu instead."
}

variable "cpu" {
  type        = number
  default     = 500
  description = "Share of the CPU in MHz, where cores is 0."
}

variable "kill_timeout" {
  type        = string
  default     = "20s"
  description = "Time between SIGTERM and SIGKILL; clients allow at most 30s unless set otherwise."
}

variable "secrets_path" {
  type        = string
  default     = "nomad/jobs/drover-worker"
  description = "Nomad variable whose items become the worker's environment."
}

variable "env" {
  type        = map(string)
  default     = {}
  description = "Further environment of the worker; never a secret."
}

variable "agent_env" {
  type        = list(string)
  default     = []
  description = "Names, or beginnings of names with a * after them, of the worker's variables that agents may see besides the usual ones."
}

variable "links" {
  type        = map(string)
  default     = {}
  description = "Links that Nomad's UI shows beside a worker, label to URL."
}

job "drover-worker" {
  id          = var.job_id
  name        = var.job_id
  type        = "batch"
  datacenters = var.datacenters

  ui {
    description = "Development worker of drover, without a container. Its meta names the item: `drover show ITEM` tells of it."

    dynamic "link" {
      for_each = var.links
      content {
        label = link.key
        url   = link.value
      }
    }
  }

  parameterized {
    payload       = "optional"
    meta_optional = ["item", "attempt", "traceparent"]
  }

  group "worker" {
    restart {
      attempts = 0
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    disconnect {
      replace = false
    }

    ephemeral_disk {
      size = 300
    }

    # For /health and /metrics; Consul checks the former.
    network {
      port "health" {}
    }

    # The worker keeps its own clock: max_run_duration would end it as "complete".
    task "worker" {
      driver       = "raw_exec"
      kill_signal  = "SIGTERM"
      kill_timeout = var.kill_timeout

      dispatch_payload {
        file = "item.json"
      }

      logs {
        max_files     = 3
        max_file_size = 10
      }

      config {
        command = var.command
      }

      # Without an image there is no environment of its own: agents see the usual
      # variables, and what agent_env allows.
      env = merge({ CONSUL_HTTP_ADDR = var.consul_addr }, var.env, { DROVER_AGENT_ENV = join(" ", var.agent_env) })

      template {
        destination = "secrets/drover.env"
        env         = true
        change_mode = "noop"
        data        = <<-EOT
          {{- if nomadVarExists "${var.secrets_path}" }}
          {{- range $name, $item := nomadVar "${var.secrets_path}" }}
          {{ $name }}={{ $item.Value | toJSON }}
          {{- end }}
          {{- end }}
        EOT
      }

      resources {
        cores  = var.cores > 0 ? var.cores : null
        cpu    = var.cores > 0 ? null : var.cpu
        memory = var.memory
      }
    }
  }
}
