package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zapgrpc"
	"google.golang.org/grpc/grpclog"

	"github.com/kvd-io/kvd/server"
	"github.com/kvd-io/kvd/server/config"
	"github.com/kvd-io/kvd/version"
)

const (
	exitStopped = 0
	exitFailed  = 1
	exitUsage   = 2
)

// stopTimeout is how long a graceful stop may take. Supervisors kill after 30 s and more.
const stopTimeout = 20 * time.Second

// member is a running member, as package server has it.
type member interface {
	// Close stops it gracefully and returns when it has stopped.
	Close()
	// Stopped yields an error when the member broke down by itself.
	Stopped() <-chan error
}

// process is what main hands to run, so that tests can hand it something else.
type process struct {
	args, environ  []string
	stdout, stderr io.Writer
	signals        <-chan os.Signal
	start          func(context.Context, *config.Config) (member, error)
	stopTimeout    time.Duration
}

func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	os.Exit(run(&process{
		args: os.Args[1:], environ: os.Environ(), stdout: os.Stdout, stderr: os.Stderr,
		signals: signals, start: startMember, stopTimeout: stopTimeout,
	}))
}

// run is the life of the process. It answers the exit code.
func run(p *process) int {
	invocation, err := config.Parse(p.args, p.environ)
	var usage *config.UsageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(p.stderr, "kvd: %v\n\n", usage)
		return exitWith(exitUsage, config.WriteUsage(p.stderr))
	case err != nil:
		return refuse(p.stderr, err)
	case invocation.Help:
		return exitWith(exitStopped, config.WriteHelp(p.stdout))
	case invocation.Version:
		return exitWith(exitStopped, version.Print(p.stdout))
	}
	cfg := invocation.Config
	logger, level, err := cfg.NewLogger()
	if err != nil {
		return refuse(p.stderr, err)
	}
	defer func() { _ = logger.Sync() }() // stderr of a terminal cannot be synced, which is no news
	cfg.Logger, cfg.LogLevelNow = logger, &level
	logGRPC(logger, level)
	return serve(p, cfg)
}

// exitWith answers a code, or a failure if what was to be shown could not be written.
func exitWith(code int, err error) int {
	if err != nil {
		return exitFailed
	}
	return code
}

// refuse tells a person what is wrong with the configuration, a line each.
func refuse(stderr io.Writer, err error) int {
	wrong := []error{err}
	var invalid *config.InvalidError
	if errors.As(err, &invalid) {
		wrong = invalid.Problems
	}
	for _, problem := range wrong {
		fmt.Fprintf(stderr, "kvd: failed to verify flags: %v\n", problem)
	}
	return exitFailed
}

// logGRPC sends gRPC's own log to ours. Below errors it only repeats what kvd says better, so it takes --log-level
// debug to see it.
func logGRPC(logger *zap.Logger, level zap.AtomicLevel) {
	if !level.Enabled(zapcore.DebugLevel) {
		logger = logger.WithOptions(zap.IncreaseLevel(zapcore.ErrorLevel))
	}
	grpclog.SetLoggerV2(zapgrpc.NewLogger(logger))
}

// serve runs a member until a signal comes or it breaks down.
func serve(p *process, cfg *config.Config) int {
	logger := cfg.Logger
	logger.Info("starting kvd",
		zap.String("etcd-version", version.Etcd()), zap.String("kvd-version", version.Version),
		zap.String("git-sha", version.Commit), zap.String("name", cfg.Name), zap.String("data-dir", cfg.DataDir),
		zap.String("config-file", cfg.File))
	for _, warning := range cfg.Warnings {
		logger.Warn("check the configuration", zap.String("setting", warning.Flag), zap.String("reason", warning.Reason))
	}
	if err := prepareProcess(p.environ, cfg); err != nil {
		logger.Error("failed to start", zap.Error(err))
		return exitFailed
	}
	if err := cfg.SetupTLS(logger); err != nil {
		logger.Error("failed to start", zap.Error(err))
		return exitFailed
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	started := make(chan outcome, 1)
	go func() {
		running, err := p.start(ctx, cfg)
		started <- outcome{running, err}
	}()
	var running member
	select {
	case result := <-started:
		if result.err != nil {
			logger.Error("failed to start", zap.Error(result.err))
			return exitFailed
		}
		running = result.member
	case first := <-p.signals:
		logger.Info("received signal; giving up the start", zap.Stringer("signal", first))
		return endWith(p, logger, func() {
			cancel()
			if result := <-started; result.err == nil {
				result.member.Close()
			}
		})
	}

	notifySystemd(logger, p.environ, "READY=1")
	code := exitStopped
	select {
	case first := <-p.signals:
		logger.Info("received signal; shutting down", zap.Stringer("signal", first))
	case err := <-running.Stopped():
		if server.Removed(err) {
			logger.Warn("the member ends", zap.Error(err))
			break
		}
		logger.Error("the member broke down", zap.Error(err))
		code = exitFailed
	}
	notifySystemd(logger, p.environ, "STOPPING=1")
	return max(code, endWith(p, logger, running.Close))
}

// outcome is what starting a member led to.
type outcome struct {
	member member
	err    error
}

// endWith runs the last work of the process. Another signal, or work that takes too long, ends the process
// nevertheless.
func endWith(p *process, logger *zap.Logger, work func()) int {
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	timeout := time.NewTimer(p.stopTimeout)
	defer timeout.Stop()
	select {
	case <-done:
		logger.Info("stopped")
		return exitStopped
	case second := <-p.signals:
		logger.Warn("received another signal; exiting at once", zap.Stringer("signal", second))
		if number, ok := second.(syscall.Signal); ok {
			return 128 + int(number)
		}
		return exitFailed
	case <-timeout.C:
		logger.Error("the stop takes too long; exiting", zap.Duration("waited", p.stopTimeout))
		return exitFailed
	}
}
