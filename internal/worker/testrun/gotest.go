package testrun

import (
	"encoding/json"
	"strings"
)

// goTest counts the tests in the output of go test -json. Its events are described on the page of go doc test2json.
type goTest struct {
	tries    tries
	packages map[string]*goPackage
	order    []string // of packages
	kept     int      // bytes of the names of packages and started tests
	full     bool     // there were more than can be kept
}

// goPackage is a package's latest run.
type goPackage struct {
	running []string // tests that have started and not ended
	failed  bool     // one of its tests did
	broken  bool     // it failed, and none of its tests did
	ended   bool
}

// goEvent is an event. Build events have no Package and mean nothing here: what could not be built fails its package.
type goEvent struct{ Action, Package, Test string }

// maxEvents bounds how often one line is searched for an event.
const maxEvents = 64

// line reads the events of a line. Processes that share the stream write into the middle of lines: what comes before
// or between events is passed over.
func (g *goTest) line(line string) {
	for n := 0; n < maxEvents && strings.Contains(line, `"Action"`); n++ {
		start := strings.IndexByte(line, '{')
		if start < 0 {
			return
		}
		line = line[start:]
		var e goEvent
		decoder := json.NewDecoder(strings.NewReader(line))
		if decoder.Decode(&e) != nil {
			line = line[1:]
			continue
		}
		line = line[decoder.InputOffset():]
		if e.Package != "" && g.room(e) { // a structured log line of the program under test has none
			g.event(e)
		}
	}
}

// room reports whether the names of an event can be kept, if they have to be.
func (g *goTest) room(e goEvent) bool {
	if e.Action == "run" || g.packages[e.Package] == nil {
		g.kept += len(e.Package) + len(e.Test)
	}
	g.full = g.full || g.kept > maxKeys
	return !g.full
}

func (g *goTest) event(e goEvent) {
	if e.Test != "" {
		g.test(e)
		return
	}
	switch e.Action {
	case "start":
		g.begin(e.Package)
	case "pass", "skip":
		g.end(e.Package, true)
	case "fail":
		g.end(e.Package, false)
	}
}

func (g *goTest) test(e goEvent) {
	p := g.open(e.Package)
	switch e.Action {
	case "run":
		p.running = append(p.running, e.Test)
	case "pass", "fail":
		p.stop(e.Test)
		p.failed = p.failed || e.Action == "fail"
		g.tries.add(key(e.Package, e.Test), e.Action == "pass")
	case "skip":
		p.stop(e.Test)
	}
}

// open returns the package's run that goes on, or a new one.
func (g *goTest) open(name string) *goPackage {
	if p := g.packages[name]; p != nil && !p.ended {
		return p
	}
	return g.begin(name)
}

func (g *goTest) begin(name string) *goPackage {
	if p := g.packages[name]; p != nil && !p.ended {
		g.abandon(name, p)
	}
	if g.packages == nil {
		g.packages = map[string]*goPackage{}
	}
	if g.packages[name] == nil {
		g.order = append(g.order, name)
	}
	p := &goPackage{}
	g.packages[name] = p
	return p
}

func (p *goPackage) stop(test string) {
	for i := len(p.running) - 1; i >= 0; i-- {
		if p.running[i] == test {
			p.running = append(p.running[:i], p.running[i+1:]...)
			return
		}
	}
}

// end ends a package's run. A package that fails without a failed test is a failure itself: it could not be built, its
// TestMain failed, or its process died.
func (g *goTest) end(name string, passed bool) {
	p := g.open(name)
	g.abandon(name, p)
	p.ended, p.broken = true, !passed && !p.failed
}

// abandon fails the tests that have not ended with their package: the process died in them, or was stopped. Benchmarks
// have no event for their end.
func (g *goTest) abandon(name string, p *goPackage) {
	for _, test := range p.running {
		if !strings.HasPrefix(test, "Benchmark") {
			g.tries.add(key(name, test), false)
			p.failed = true
		}
	}
	p.running = nil
}

func (g *goTest) counts() Counts {
	for _, name := range g.order {
		g.abandon(name, g.packages[name])
	}
	c := g.tries.counts()
	if g.full {
		c.fault("go test -json: there are more names than the %d MiB that are kept", maxKeys>>20)
	}
	for _, name := range g.order {
		if g.packages[name].broken {
			c.Failed++
			c.Failing = appendName(c.Failing, key(name))
		}
	}
	return c
}
