package main

import (
	"context"

	"github.com/kvd-io/kvd/server"
	"github.com/kvd-io/kvd/server/config"
)

// startMember starts what this process is for.
func startMember(ctx context.Context, cfg *config.Config) (member, error) {
	running, err := server.Start(ctx, cfg)
	if err != nil {
		return nil, err // not running, which would be a member that is not nil
	}
	return running, nil
}
