# drover itself. It keeps nothing on disk, so any replica may take over: one
# leads by a lock in Consul, the others forward to it.

variable "job_id" {
  type        = string
  default     = "drover"
  description = "Name of the job."
}

variable "datacenters" {
  type        = list(string)
  default     = ["*"]
  description = "Where servers may run."
}

variable "image" {
  type        = string
  description = "Image that holds the drover binary."
}

variable "replicas" {
  type        = number
  default     = 1
  description = "How many servers run, each on a node of its own."
}

variable "consul_addr" {
  type        = string
  default     = "$${attr.unique.network.ip-address}:8500"
  description = "Consul agent of the server; by default the one of its node."
}

variable "nomad_addr" {
  type        = string
  default     = "http://$${attr.unique.network.ip-address}:4646"
  description = "Nomad agent of the server; by default the one of its node."
}

variable "port" {
  type        = number
  default     = 4700
  description = "Port of the API, on every node that a server runs on."
}

variable "memory" {
  type        = number
  default     = 512
  description = "Hard limit of a server's memory in MB."
}

variable "cpu" {
  type        = number
  default     = 500
  description = "Share of the CPU in MHz."
}

variable "secrets_path" {
  type        = string
  default     = "nomad/jobs/drover"
  description = "Nomad variable whose items become the server's environment."
}

variable "env" {
  type        = map(string)
  default     = {}
  description = "Further environment of the server; never a secret."
}

job "drover" {
  id          = var.job_id
  name        = var.job_id
  type        = "service"
  datacenters = var.datacenters

  ui {
    description = "The drover orchestrator: queue, dispatch and API."
  }

  constraint {
    operator = "distinct_hosts"
    value    = "true"
  }

  group "server" {
    count = var.replicas

    restart {
      attempts = 10
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    network {
      mode = "host"
      port "http" {
        static = var.port
      }
    }

    # A server that does not answer is started anew. One that is not ready, because
    # Nomad or Consul is away or nobody leads, is only taken out of service.
    service {
      name     = var.job_id
      provider = "nomad"
      port     = "http"

      check {
        name     = "live"
        type     = "http"
        path     = "/health/live"
        interval = "10s"
        timeout  = "5s"

        check_restart {
          limit = 3
          grace = "30s"
        }
      }

      check {
        name     = "ready"
        type     = "http"
        path     = "/health/ready"
        interval = "10s"
        timeout  = "5s"
      }
    }

    task "drover" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      config {
        image           = var.image
        command         = "drover"
        args            = ["server"]
        network_mode    = "host"
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        readonly_rootfs = true
      }

      env = merge({
        CONSUL_HTTP_ADDR    = var.consul_addr
        NOMAD_ADDR          = var.nomad_addr
        DROVER_HTTP_ADDRESS = "$${NOMAD_ADDR_http}"
      }, var.env)

      template {
        destination = "secrets/drover.env"
        env         = true
        data        = <<-EOT
          {{- if nomadVarExists "${var.secrets_path}" }}
          {{- range $name, $item := nomadVar "${var.secrets_path}" }}
          {{ $name }}={{ $item.Value | toJSON }}
          {{- end }}
          {{- end }}
        EOT
      }

      resources {
        cpu    = var.cpu
        memory = var.memory
      }
    }
  }
}
