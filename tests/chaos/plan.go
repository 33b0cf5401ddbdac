package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// step is one fault of a plan.
type step struct {
	fault *fault
	// calm comes before the fault, which then lasts for hold.
	calm, hold time.Duration
	seed       uint64
	// over is a second fault that begins while this one is in force.
	over *step
}

// has tells whether a fault of this name is part of the step.
func (s *step) has(name string) bool {
	return s != nil && (s.fault.name == name || s.over.has(name))
}

// makePlan chooses faults for about as long as was asked.
func makePlan(cfg Config, rng *rand.Rand) ([]step, error) {
	var from []*fault
	for i := range faults {
		if len(cfg.Only) == 0 || slices.Contains(cfg.Only, faults[i].name) {
			from = append(from, &faults[i])
		}
	}
	if len(from) == 0 || len(cfg.Only) > len(from) {
		return nil, fmt.Errorf("chaos: not all of %q are faults; there are %q", cfg.Only, Names())
	}
	choose := func() step {
		f := from[rng.IntN(len(from))]
		return step{fault: f, seed: rng.Uint64(), calm: time.Duration(rng.IntN(900)) * time.Millisecond,
			hold: f.hold[0] + time.Duration(rng.Int64N(int64(f.hold[1]-f.hold[0])+1))}
	}
	var plan []step
	for total := time.Duration(0); total < cfg.Faults; {
		s := choose()
		total += s.calm + s.hold
		if rng.IntN(3) == 0 {
			over := choose()
			over.hold = min(over.hold, s.hold)
			if !s.fault.disk || !over.fault.disk { // a frozen disk cannot be filled
				s.over = &over
			}
		}
		plan = append(plan, s)
	}
	return plan, nil
}

// execute goes through the plan. In the end everything is healed, whatever happened.
func (r *round) execute(ctx context.Context, plan []step, result *Result) error {
	var errs []error
	for i := range plan {
		if err := errors.Join(pause(ctx, plan[i].calm), r.strike(ctx, &plan[i], result)); err != nil {
			errs = append(errs, err)
			break
		}
	}
	r.cluster.Network.Heal()
	if r.disk != nil {
		errs = append(errs, r.disk.thaw())
	}
	for _, m := range r.cluster.Members {
		if m.Running() {
			errs = append(errs, m.Resume())
		}
		errs = append(errs, r.start(m))
	}
	return errors.Join(errs...)
}

func (r *round) strike(ctx context.Context, s *step, result *Result) error {
	name := s.fault.name
	heal, err := s.fault.strike(ctx, r, rand.New(rand.NewPCG(s.seed, 0)))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.note("%s for %v", name, s.hold.Round(time.Millisecond))
	begin := time.Now()
	var errs []error
	if s.over != nil {
		errs = append(errs, pause(ctx, (s.hold-s.over.hold)/2), r.strike(ctx, s.over, result))
	}
	errs = append(errs, pause(ctx, s.hold-time.Since(begin)))
	if heal != nil {
		errs = append(errs, heal(ctx))
	}
	result.Held[name] += time.Since(begin)
	return errors.Join(errs...)
}
