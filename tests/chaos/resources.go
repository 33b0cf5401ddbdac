package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// resources are what a member has in use.
type resources struct {
	goroutines, fds int
	heap            int64 // bytes in use after a collection
	shards          int
}

// What a member may have more after a round than before. A replica more has goroutines, files and buffers of its own, so splits of the round are counted in.
const (
	tolerance          = 1.05
	slackGoroutines    = 24 // streams of clients and watches of the round, which come and go
	slackFDs           = 24 // tables of stores, of which compactions make more and fewer
	slackHeap          = 24 << 20
	goroutinesPerShard = 24
	fdsPerShard        = 24
	heapPerShard       = 4 << 20
)

// measure looks at every member.
func (r *round) measure(ctx context.Context) ([]resources, error) {
	shards, err := r.shards(ctx)
	if err != nil {
		return nil, fmt.Errorf("counting shards: %w", err)
	}
	var all []resources
	for _, m := range r.cluster.Members {
		u, err := measure(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("measuring %s: %w", m.Name, err)
		}
		u.shards = len(shards)
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
	// Asking for a profile of the heap collects garbage first.
	if _, err := fetch(ctx, m.ClientURL+"/debug/pprof/heap?gc=1"); err != nil {
		return u, err
	}
	page, err := fetch(ctx, m.ClientURL+"/metrics")
	if err != nil {
		return u, err
	}
	for lines := bufio.NewScanner(strings.NewReader(page)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		x, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "go_goroutines":
			u.goroutines = int(x)
		case "go_memstats_heap_alloc_bytes":
			u.heap = int64(x)
		}
	}
	if u.goroutines == 0 || u.heap == 0 {
		return u, errors.New("its metrics do not tell goroutines and memory")
	}
	return u, nil
}

func fetch(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(b), err
}

// demandResources demands that what members have in use is back near where it was.
func (r *round) demandResources(ctx context.Context, before []resources, healed time.Time) error {
	deadline := healed.Add(recovery)
	if soon := time.Now().Add(recovery / 2); soon.After(deadline) {
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
			more := n.shards - b.shards
			if limit := int(tolerance*float64(b.goroutines)) + slackGoroutines + more*goroutinesPerShard; n.goroutines > limit {
				return fmt.Errorf("%s has %d goroutines, had %d, may have %d", m.Name, n.goroutines, b.goroutines, limit)
			}
			if limit := int(tolerance*float64(b.fds)) + slackFDs + more*fdsPerShard; n.fds > limit {
				return fmt.Errorf("%s has %d files open, had %d, may have %d", m.Name, n.fds, b.fds, limit)
			}
			if limit := int64(tolerance*float64(b.heap)) + slackHeap + int64(more)*heapPerShard; n.heap > limit {
				return fmt.Errorf("%s has %d bytes on its heap, had %d, may have %d", m.Name, n.heap, b.heap, limit)
			}
		}
		return nil
	})
	for i, m := range r.cluster.Members {
		if now != nil {
			r.note("%s: goroutines %d, then %d; files %d, then %d; heap %d KiB, then %d KiB; shards %d, then %d", m.Name,
				before[i].goroutines, now[i].goroutines, before[i].fds, now[i].fds, before[i].heap>>10, now[i].heap>>10, before[i].shards, now[i].shards)
		}
	}
	return err
}
