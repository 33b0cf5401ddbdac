package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// Process is one run of a program that this package started.
type Process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // result of Wait, set before exited is closed
}

// ProcessOptions say how a program is run.
type ProcessOptions struct {
	Path string
	Args []string
	Env  []string // appended to a clean environment
	Dir  string   // working directory; empty means this process's
	Log  *os.File // receives standard output and standard error
}

var spawner struct {
	once sync.Once
	jobs chan func()
}

// spawn runs fn on one thread that lives as long as this process: the kernel ends a child with Pdeathsig when the *thread* that forked it
// ends, so children must not be started from a thread that the runtime may let go.
func spawn(fn func()) {
	spawner.once.Do(func() {
		spawner.jobs = make(chan func())
		go func() {
			runtime.LockOSThread()
			for job := range spawner.jobs {
				job()
			}
		}()
	})
	done := make(chan struct{})
	spawner.jobs <- func() { defer close(done); fn() }
	<-done
}

// StartProcess starts a program that the kernel kills when this process ends, however it ends.
func StartProcess(o ProcessOptions) (*Process, error) {
	cmd := exec.Command(o.Path, o.Args...)
	cmd.Dir = o.Dir
	cmd.Env = append(cleanEnvironment(), o.Env...)
	cmd.Stdout, cmd.Stderr = o.Log, o.Log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	spawn(func() { err = cmd.Start() })
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", o.Path, err)
	}
	p := &Process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// Pid is the process id; it stays the same after the process ended.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended and was reaped.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Err is the result of the process, as exec.Cmd.Wait gives it. Call it only after Exited was closed.
func (p *Process) Err() error { return p.err }

// Signal sends sig to this very process; os.ErrProcessDone tells that it has ended.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// cleanEnvironment is this process's environment without settings of either server, which would leak into every member.
func cleanEnvironment() []string {
	var env []string
	for _, e := range os.Environ() {
		if strings.HasPrefix(e, "ETCD_") || strings.HasPrefix(e, "KVD_") || strings.HasPrefix(e, "ETCDCTL_") {
			continue
		}
		env = append(env, e)
	}
	return env
}
