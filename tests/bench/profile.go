package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/kvd-io/kvd/tests/cluster"
)

// profileCell runs a cell once more on every system and takes a CPU profile of each member while the load is on.
func profileCell(ctx context.Context, o *options, systems []*system, c cell) error {
	if err := os.MkdirAll(o.profileDir, 0o755); err != nil {
		return fmt.Errorf("making the directory of the profiles: %w", err)
	}
	for _, s := range systems {
		if s.kind == kindEmpty {
			continue
		}
		if err := s.thaw(ctx); err != nil {
			return err
		}
		var wg sync.WaitGroup
		errs := make([]error, len(s.cluster.Members))
		seconds := max(1, int(o.load.duration.Seconds()))
		begin := func() error {
			for i, m := range s.cluster.Members {
				file := fmt.Sprintf("%s-%d-%d-%dm-%s-%s.pb.gz", c.op, c.clients, c.conns, c.members, strings.ReplaceAll(s.name, "/", "-"), m.Name)
				wg.Go(func() { errs[i] = fetchProfile(ctx, m, seconds, filepath.Join(o.profileDir, file)) })
			}
			return nil
		}
		_, err := runLoad(ctx, s.cluster.Endpoints(), c, o.load, begin, func() error { return nil })
		wg.Wait()
		if err := errors.Join(append(errs, err, s.freeze())...); err != nil {
			return fmt.Errorf("profile of %s: %w", s.name, err)
		}
	}
	return nil
}

func fetchProfile(ctx context.Context, m *cluster.Member, seconds int, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", m.ClientURL, seconds), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, resp.Body); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
