package nomadd

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"

	"github.com/docker/go-connections/nat"
	"github.com/hashicorp/nomad/api"
)

// Nomad's range of dynamic ports.
const minDynamicPort, maxDynamicPort = 20000, 32000

// address is the node's.
func (s *Server) address() string { return cmp.Or(s.options.NodeIP, "127.0.0.1") }

// networkProblems refuses what this server can't give: anything but dynamic ports of the host.
func networkProblems(group *api.TaskGroup) []error {
	var problems []error
	for _, network := range group.Networks {
		if network.Mode != "" && network.Mode != "host" {
			problems = append(problems, fmt.Errorf("this server knows no network mode %q", network.Mode))
		}
		for _, port := range network.DynamicPorts {
			if port.Value != 0 {
				problems = append(problems, fmt.Errorf("this server gives no static ports, as %q is", port.Label))
			}
		}
	}
	return problems
}

// takePorts gives a group its ports: none that another allocation has, or
// anyone else on the machine.
func (f *room) takePorts(group *api.TaskGroup, address string) (shared api.AllocatedSharedResources, ok bool) {
	for _, network := range group.Networks {
		given := *network
		given.IP, given.DynamicPorts = address, nil
		for _, port := range network.DynamicPorts {
			value, free := f.port(address)
			if !free {
				return shared, false
			}
			port.Value = value
			given.DynamicPorts = append(given.DynamicPorts, port)
			shared.Ports = append(shared.Ports, api.PortMapping{Label: port.Label, Value: value, To: port.To, HostIP: address})
		}
		shared.Networks = append(shared.Networks, &given)
	}
	return shared, true
}

func (f *room) port(address string) (int, bool) {
	const span = maxDynamicPort - minDynamicPort + 1
	start := rand.IntN(span)
	for i := range span {
		port := minDynamicPort + (start+i)%span
		if f.ports[port] || !free(address, port) {
			continue
		}
		f.ports[port] = true
		return port, true
	}
	return 0, false
}

func free(address string, port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

// inside is the port that the task is to listen on.
func inside(port api.PortMapping) int { return cmp.Or(max(0, port.To), port.Value) }

// portEnv tells a task its ports.
func portEnv(env map[string]string, ports []api.PortMapping) {
	for _, port := range ports {
		outer := strconv.Itoa(port.Value)
		for name, value := range map[string]string{
			"IP": port.HostIP, "PORT": strconv.Itoa(inside(port)), "ADDR": net.JoinHostPort(port.HostIP, outer),
			"HOST_IP": port.HostIP, "HOST_PORT": outer, "HOST_ADDR": net.JoinHostPort(port.HostIP, outer),
		} {
			env["NOMAD_"+name+"_"+strings.ReplaceAll(port.Label, "-", "_")] = value
		}
	}
}

// publish says how a container's ports are reached, for those of its labels.
func publish(labels []string, ports []api.PortMapping) (nat.PortSet, nat.PortMap, error) {
	exposed, bound := nat.PortSet{}, nat.PortMap{}
	for _, label := range labels {
		found := false
		for _, port := range ports {
			if port.Label != label {
				continue
			}
			found = true
			for _, protocol := range []string{"tcp", "udp"} {
				at := nat.Port(fmt.Sprintf("%d/%s", inside(port), protocol))
				exposed[at] = struct{}{}
				bound[at] = []nat.PortBinding{{HostIP: port.HostIP, HostPort: strconv.Itoa(port.Value)}}
			}
		}
		if !found {
			return nil, nil, fmt.Errorf("Port %q not found, check network block", label) //lint:ignore ST1005 it is Nomad's text
		}
	}
	return exposed, bound, nil
}
