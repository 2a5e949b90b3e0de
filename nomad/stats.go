package nomad

import (
	"context"

	"github.com/hashicorp/nomad/api"
)

const bytesPerMB = 1 << 20

// MemoryMB returns what a running allocation uses of its memory, in MiB: with
// the page cache where its driver tells no more, without where it does.
// It returns work.ErrNotFound for one that does not run, and work.ErrUnavailable.
func (c *Client) MemoryMB(ctx context.Context, allocation string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stats, err := c.repeat.Allocations().Stats(&api.Allocation{ID: allocation}, c.readOpts(ctx))
	if err != nil {
		return 0, classify("read stats of allocation "+allocation, false, err)
	}
	if stats.ResourceUsage == nil || stats.ResourceUsage.MemoryStats == nil {
		return 0, nil
	}
	m := stats.ResourceUsage.MemoryStats
	used := m.RSS
	if used == 0 {
		used = m.Usage
	}
	return int(used / bytesPerMB), nil
}
