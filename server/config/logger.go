package config

import (
	"fmt"
	"os"
	"slices"

	"go.etcd.io/etcd/client/pkg/v3/logutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const journalOutput = "systemd/journal"

// logLevels are the names that --log-level accepts.
var logLevels = []string{"debug", "info", "warn", "error", "dpanic", "panic", "fatal"}

// encoding reads the level and the format of the log.
func (c *Config) encoding() (zapcore.Level, string, error) {
	if !slices.Contains(logLevels, c.LogLevel) {
		return 0, "", fmt.Errorf("unknown log level %q, must be one of %v", c.LogLevel, logLevels)
	}
	level, err := zapcore.ParseLevel(c.LogLevel)
	if err != nil {
		return 0, "", err
	}
	if c.LogFormat != "json" && c.LogFormat != "console" {
		return 0, "", fmt.Errorf("unknown log format: %s, supported values json, console", c.LogFormat)
	}
	return level, c.LogFormat, nil
}

func (c *Config) checkOutputs() error {
	if len(c.LogOutputs) > 1 && slices.Contains(c.LogOutputs, "default") {
		return fmt.Errorf("multi logoutput for %q is not supported yet", "default")
	}
	if len(c.LogOutputs) > 1 && slices.Contains(c.LogOutputs, journalOutput) {
		return fmt.Errorf("running with systemd/journal but other '--log-outputs' values (%q) are configured", c.LogOutputs)
	}
	return nil
}

// NewLogger opens the log with etcd's keys: level, ts, caller, msg. The level can be changed at run time.
func (c *Config) NewLogger() (*zap.Logger, zap.AtomicLevel, error) {
	level, format, err := c.encoding()
	if err != nil {
		return nil, zap.AtomicLevel{}, err
	}
	adjustable := zap.NewAtomicLevelAt(level)
	config := logutil.DefaultZapLoggerConfig
	config.Level = adjustable
	config.Encoding = format

	if slices.Contains(c.LogOutputs, journalOutput) {
		logger, err := newJournalLogger(config)
		return logger, adjustable, err
	}
	paths := make([]string, len(c.LogOutputs))
	for i, output := range c.LogOutputs {
		if output == "default" {
			output = "stderr"
		}
		paths[i] = output
	}
	config.OutputPaths, config.ErrorOutputPaths = paths, paths
	if c.enableLogRotation {
		logger, err := c.newRotatingLogger(config)
		return logger, adjustable, err
	}
	logger, err := logutil.MergeOutputPaths(config).Build()
	if err != nil {
		return nil, adjustable, fmt.Errorf("opening the log: %w", err)
	}
	return logger, adjustable, nil
}

// newJournalLogger writes to journald, and to stderr whatever journald does not take.
func newJournalLogger(config zap.Config) (*zap.Logger, error) {
	journal, err := newJournalWriter(os.Stderr)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	sink := zapcore.AddSync(journal)
	// The journal's priority is read out of the line, which therefore is JSON whatever the format.
	core := zapcore.NewCore(zapcore.NewJSONEncoder(config.EncoderConfig), sink, config.Level)
	return zap.New(core, zap.AddCaller(), zap.ErrorOutput(sink)), nil
}
