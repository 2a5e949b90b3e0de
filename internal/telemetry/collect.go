package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"drover/internal/work"
)

// The metrics that are counted when somebody asks, because they are about how
// things stand. Only the leader has the items.
var (
	descLeader       = prometheus.NewDesc("drover_leader", "Whether this server leads: 1 or 0.", nil, nil)
	descItems        = prometheus.NewDesc("drover_items", "Items, by queue and state.", []string{"queue", "state"}, nil)
	descOldest       = prometheus.NewDesc("drover_oldest_item_age_seconds", "Time that the item which is longest in a state has been there, by queue.", []string{"queue", "state"}, nil)
	descInFlight     = prometheus.NewDesc("drover_attempts_in_flight", "Attempts that are dispatched and have not ended.", nil, nil)
	descLimit        = prometheus.NewDesc("drover_attempts_in_flight_limit", "Attempts that may be in flight, over all queues.", nil, nil)
	descHeartbeatAge = prometheus.NewDesc("drover_heartbeat_age_seconds", "Time since the last heartbeat of the running attempt that has been silent longest; 0 if none runs.", nil, nil)
	descBreakers     = prometheus.NewDesc("drover_breakers", "Circuit breakers of repositories that count failures, by state.", []string{"state"}, nil)
)

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{descLeader, descItems, descOldest, descInFlight, descLimit, descHeartbeatAge, descBreakers} {
		to <- desc
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	leader := 0.0
	if m.leader.Load() {
		leader = 1
	}
	gauge(descLeader, leader)
	if m.census == nil {
		return
	}
	census, leads := m.census(time.Now())
	if !leads {
		return
	}
	for _, g := range census.Groups {
		gauge(descItems, float64(g.Items), g.Queue, string(g.State))
		if !g.State.Terminal() {
			gauge(descOldest, g.Oldest.Seconds(), g.Queue, string(g.State))
		}
	}
	gauge(descInFlight, float64(census.InFlight))
	gauge(descLimit, float64(census.MaxInFlight))
	gauge(descHeartbeatAge, census.HeartbeatAge.Seconds())
	for _, state := range []work.BreakerState{work.BreakerClosed, work.BreakerOpen, work.BreakerHalfOpen} {
		gauge(descBreakers, float64(census.Breakers[state]), string(state))
	}
}
