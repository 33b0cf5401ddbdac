package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// admin runs kvctl.
type admin struct {
	kvctl     string
	endpoints []string
}

func (a *admin) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, a.kvctl, append([]string{"--endpoints=" + strings.Join(a.endpoints, ",")}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kvctl %s: %w: %s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out), nil
}

func (a *admin) split(ctx context.Context, key string) error {
	_, err := a.run(ctx, "shard", "split", key)
	return err
}

// count is the number of shards.
func (a *admin) count(ctx context.Context) (int, error) {
	out, err := a.run(ctx, "shard", "list", "-w", "json")
	if err != nil {
		return 0, err
	}
	var list []struct {
		ID json.Number `json:"id"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return 0, fmt.Errorf("reading the list of shards: %w", err)
	}
	return len(list), nil
}

// table is the list for people: range, owner, replicas, size and keys of every shard.
func (a *admin) table(ctx context.Context) (string, error) {
	return a.run(ctx, "shard", "list", "-w", "table")
}

// boundaries gives n-1 keys that cut sorted keys into n parts of about the same number. A cut is moved to the first package of a section
// where one begins nearby.
func boundaries(keys []string, n int) []string {
	var out []string
	for i := 1; i < n; i++ {
		at := len(keys) * i / n
		reach := len(keys) / n / 4
		best := at
		for d := range reach {
			for _, j := range []int{at - d, at + d} {
				if j > 0 && j < len(keys) && section(keys[j]) != section(keys[j-1]) {
					best = j
				}
			}
			if best != at {
				break
			}
		}
		out = append(out, keys[best])
	}
	return slices.Compact(out)
}

// section is the key up to the package's name.
func section(key string) string { return key[:strings.LastIndexByte(key, '/')+1] }
