package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// resources are what a member has in use.
type resources struct {
	goroutines, fds int
	heap            int64 // bytes in use after a collection
	replicas        int
}

// What a member may have more after a round than before. A replica more has goroutines, files and buffers of its own, so splits and moves of the round are counted in.
const (
	tolerance            = 1.05
	slackGoroutines      = 24 // streams of clients and watches of the round, which come and go
	slackFDs             = 24 // tables of stores, of which compactions make more and fewer
	slackHeap            = 24 << 20
	goroutinesPerReplica = 24
	fdsPerReplica        = 24
	heapPerReplica       = 4 << 20
)

// measure looks at every member.
func (r *round) measure(ctx context.Context) ([]resources, error) {
	shards, err := r.shards(ctx)
	if err != nil {
		return nil, fmt.Errorf("counting replicas: %w", err)
	}
	var all []resources
	for _, m := range r.cluster.Members {
		u, err := measure(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("measuring %s: %w", m.Name, err)
		}
		for _, shard := range shards {
			for _, replica := range shard.Replicas {
				if r.ids[replica.MemberId] == m {
					u.replicas++
				}
			}
		}
		all = append(all, u)
	}
	return all, nil
}

func measure(ctx context.Context, m *cluster.Member) (resources, error) {
	var u resources
	var err error
	if u.fds, err = cluster.FDs(m.Pid()); err != nil {
		return u, err
	}
	if err := collect(ctx, m); err != nil {
		return u, err
	}
	families, err := m.Metrics(ctx)
	if err != nil {
		return u, err
	}
	gauge := func(name string) float64 {
		var sum float64
		for _, metric := range families[name].GetMetric() {
			sum += metric.GetGauge().GetValue()
		}
		return sum
	}
	u.goroutines, u.heap = int(gauge("go_goroutines")), int64(gauge("go_memstats_heap_alloc_bytes"))
	if u.goroutines == 0 || u.heap == 0 {
		return u, errors.New("its metrics do not tell goroutines and memory")
	}
	return u, nil
}

// collect makes a member collect garbage: asking for a profile of its heap does.
func collect(ctx context.Context, m *cluster.Member) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.ClientURL+"/debug/pprof/heap?gc=1", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	return nil
}

// demandResources demands that what members have in use is back near where it was.
func (r *round) demandResources(ctx context.Context, before []resources, healed time.Time) error {
	deadline := healed.Add(r.cfg.Recovery)
	if soon := time.Now().Add(r.cfg.Recovery / 2); soon.After(deadline) {
		deadline = soon
	}
	var now []resources
	err := until(ctx, deadline, "resources", func(ctx context.Context) error {
		var err error
		if now, err = r.measure(ctx); err != nil {
			return err
		}
		for i, m := range r.cluster.Members {
			b, n := before[i], now[i]
			more := max(n.replicas-b.replicas, 0) // with fewer replicas it may own more of them
			if limit := int(tolerance*float64(b.goroutines)) + slackGoroutines + more*goroutinesPerReplica; n.goroutines > limit {
				return fmt.Errorf("%s has %d goroutines, had %d, may have %d", m.Name, n.goroutines, b.goroutines, limit)
			}
			if limit := int(tolerance*float64(b.fds)) + slackFDs + more*fdsPerReplica; n.fds > limit {
				return fmt.Errorf("%s has %d files open, had %d, may have %d", m.Name, n.fds, b.fds, limit)
			}
			if limit := int64(tolerance*float64(b.heap)) + slackHeap + int64(more)*heapPerReplica; n.heap > limit {
				return fmt.Errorf("%s has %d bytes on its heap, had %d, may have %d", m.Name, n.heap, b.heap, limit)
			}
		}
		return nil
	})
	for i, m := range r.cluster.Members {
		if now != nil {
			r.note("%s: goroutines %d, then %d; files %d, then %d; heap %d KiB, then %d KiB; replicas %d, then %d", m.Name,
				before[i].goroutines, now[i].goroutines, before[i].fds, now[i].fds, before[i].heap>>10, now[i].heap>>10, before[i].replicas, now[i].replicas)
		}
	}
	return err
}
