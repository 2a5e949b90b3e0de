# One run of a work item is one dispatch of this job. drover itself decides
# about retries, so Nomad is told to restart, reschedule and replace nothing.

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

variable "image" {
  type        = string
  description = "Image of the worker; its entry point is drover-worker. Name it by digest or version: a tag of latest is always pulled."
}

variable "network_mode" {
  type        = string
  default     = "bridge"
  description = "Docker network of the container."
}

variable "pids" {
  type        = number
  default     = 256
  description = "Most processes and threads in the container."
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
  default     = 2
  description = "Whole cores reserved for a worker; 0 takes a share by cpu instead."
}

variable "cpu" {
  type        = number
  default     = 2000
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
    description = "Runs one attempt of a drover work item in a container. Its meta names the item: `drover show ITEM` tells of it."

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
      driver = "docker"

      # The first process is root to start worker and agent as users of their
      # own, and has no other privilege of root's than cap_add. See docs/isolation.md.
      user         = "0"
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
        image           = var.image
        network_mode    = var.network_mode
        ports           = ["health"]
        pids_limit      = var.pids
        cpu_hard_limit  = var.cores > 0
        cap_drop        = ["all"]
        cap_add         = ["setuid", "setgid", "kill"]
        security_opt    = ["no-new-privileges"]
        readonly_rootfs = true

        # Its pages count as the task's memory.
        mount {
          type     = "tmpfs"
          target   = "/tmp"
          readonly = false
          tmpfs_options {
            size = 268435456
          }
        }
      }

      # With the names of what the job gives, a worker can tell the image's own
      # environment, which agents may see, from the rest, which they may not.
      env = merge({ CONSUL_HTTP_ADDR = var.consul_addr }, var.env, {
        DROVER_AGENT_ENV = join(" ", var.agent_env)
        DROVER_JOB_NAMES = join(" ", keys(var.env))
      })

      template {
        destination = "secrets/drover.env"
        perms       = "0400"
        env         = true
        # Rendered again, it would end its task once Nomad's servers are away for minutes.
        once        = true
        change_mode = "noop"
        data        = <<-EOT
          {{- $names := "" }}
          {{- if nomadVarExists "${var.secrets_path}" }}
          {{- range $name, $item := nomadVar "${var.secrets_path}" }}
          {{- $names = print $names " " $name }}
          {{ $name }}={{ $item.Value | toJSON }}
          {{- end }}
          {{- end }}
          DROVER_SECRET_NAMES={{ $names | toJSON }}
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
