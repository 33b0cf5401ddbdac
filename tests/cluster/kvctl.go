package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
)

// Kvctl runs kvctl's binary against all members and returns what it printed. The error of one that failed holds all that it said.
func (c *Cluster) Kvctl(ctx context.Context, binary string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, binary, append([]string{"--endpoints=" + strings.Join(c.Endpoints(), ",")}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("kvctl %s: %w: %s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return out, nil
}

// Shard is what kvctl shard list tells of a shard, as far as it is asked for.
type Shard struct {
	ID uint64 `json:"id"`
	// Owner is nil while there is none.
	Owner *struct {
		Name string `json:"name"`
	} `json:"owner"`
	SizeBytes int64 `json:"size_bytes"`
}

// Shards runs kvctl shard list, with further flags if there are any.
func (c *Cluster) Shards(ctx context.Context, binary string, flags ...string) ([]Shard, error) {
	out, err := c.Kvctl(ctx, binary, append(flags, "shard", "list", "-w", "json")...)
	if err != nil {
		return nil, err
	}
	var shards []Shard
	if err := json.Unmarshal(out, &shards); err != nil {
		return nil, fmt.Errorf("reading the list of shards: %w", err)
	}
	return shards, nil
}
