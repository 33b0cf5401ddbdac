package cluster

import (
	"context"
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
