package nomad

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
)

func TestChooseNodes_OneOfEachClass(t *testing.T) {
	node := func(name, class, pool, dc string) Node {
		return Node{ID: name, Name: name, Class: class, Pool: pool, Datacenter: dc, Ready: true}
	}
	draining, broken := node("draining", "big", "default", "dc1"), node("broken", "gpu", "default", "dc1")
	draining.Ready, broken.Driver = false, "it has no driver docker"
	nodes := []Node{
		draining, broken,
		node("a", "big", "default", "dc1"), node("b", "big", "default", "dc1"), node("c", "small", "default", "dc1"),
		node("d", "big", "other", "dc1"), node("e", "big", "default", "dc2"), node("f", "", "default", "west-1"),
	}
	for name, c := range map[string]struct {
		datacenters []string
		pool        *string
		want        string
	}{
		"every datacenter":   {[]string{"*"}, nil, "a c e f"},
		"one datacenter":     {[]string{"dc1"}, nil, "a c"},
		"a glob":             {[]string{"west-*"}, nil, "f"},
		"none":               {[]string{"east"}, nil, ""},
		"another pool":       {[]string{"*"}, new("other"), "d"},
		"every pool":         {[]string{"dc1"}, new(anyPool), "a c d"},
		"the pool's default": {[]string{"dc1"}, new(""), "a c"},
	} {
		var got []string
		for _, n := range chooseNodes(nodes, &api.Job{Datacenters: c.datacenters, NodePool: c.pool}) {
			got = append(got, n.Name)
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: nodes = %q, want %q", name, text, c.want)
		}
	}
}

func TestChooseNodes_AtMostTwenty(t *testing.T) {
	var nodes []Node
	for i := range 2 * maxProbed {
		nodes = append(nodes, Node{ID: fmt.Sprint(i), Class: fmt.Sprint(i), Pool: "default", Datacenter: "dc1", Ready: true})
	}
	if got := len(chooseNodes(nodes, &api.Job{Datacenters: []string{"*"}})); got != 20 {
		t.Errorf("%d nodes, want 20", got)
	}
}
