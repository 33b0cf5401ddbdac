package multiraft

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/logger"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Dragonboat's logger is one per process, and its factory can be set once only. The factory set here leads to whichever logger the
// newest host brought.
var (
	routeOnce sync.Once
	routed    atomic.Pointer[zap.Logger]
)

func routeLogs(l *zap.Logger) {
	routed.Store(l)
	routeOnce.Do(func() {
		logger.SetLoggerFactory(func(pkg string) logger.ILogger { return &raftLogger{pkg: pkg, warn: warnLevel(pkg)} })
	})
}

// warnLevel is what a warning of one of Dragonboat's packages is worth. Every vote is a warning of raft, every full queue one of dragonboat, every lost connection one of
// transport (the mesh reports those itself), and config warns of TLS that the mesh provides.
func warnLevel(pkg string) zapcore.Level {
	switch pkg {
	case "raft", "transport", "config", "dragonboat":
		return zap.DebugLevel
	}
	return zap.WarnLevel
}

type raftLogger struct {
	pkg  string
	warn zapcore.Level
}

func (r *raftLogger) log(level zapcore.Level, format string, args []any) {
	l := routed.Load()
	if ce := l.Check(level, ""); ce != nil {
		ce.Message = fmt.Sprintf(format, args...)
		ce.Write(zap.String("dragonboat", r.pkg))
	}
}

func (r *raftLogger) SetLevel(logger.LogLevel) {}

func (r *raftLogger) Debugf(string, ...any) {}

func (r *raftLogger) Infof(format string, args ...any) { r.log(zap.DebugLevel, format, args) }

func (r *raftLogger) Warningf(format string, args ...any) { r.log(r.warn, format, args) }

func (r *raftLogger) Errorf(format string, args ...any) {
	level := zap.ErrorLevel
	if r.pkg == "transport" {
		// Each is about a member that cannot be reached, which the mesh has told.
		level = zap.InfoLevel
	}
	r.log(level, format, args)
}

// Panicf ends the process: Dragonboat calls it on its own goroutines when it cannot go on.
func (r *raftLogger) Panicf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	r.log(zap.ErrorLevel, "%s", []any{msg})
	panic(msg)
}
