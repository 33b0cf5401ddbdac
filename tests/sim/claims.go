package sim

import (
	"fmt"
	"time"
)

// Claim is something that a run has to show.
type Claim struct {
	What       string
	Got, Bound string
	Holds      bool
}

func atMost(what string, got, bound float64, format string) Claim {
	return Claim{What: what, Got: fmt.Sprintf(format, got), Bound: "at most " + fmt.Sprintf(format, bound), Holds: got <= bound}
}

func atLeast(what string, got, bound float64, format string) Claim {
	return Claim{What: what, Got: fmt.Sprintf(format, got), Bound: "at least " + fmt.Sprintf(format, bound), Holds: got >= bound}
}

// balanced claims that nobody is further from the mean than a tenth of it, or than a
// difference that balancing cannot better.
func balanced(what string, s Spread, unit float64) Claim {
	c := atMost(what+": furthest from the mean", 100*s.Off(), 10, "%.1f %%")
	c.Holds = c.Holds || s.Max-s.Min <= unit
	return c
}

// common are the claims of every run.
func common(r Result) []Claim {
	refused := 0
	for _, n := range r.Rejections {
		refused += n
	}
	last := r.Last()
	return []Claim{
		atMost("decisions that placement refused", float64(refused), 0, "%.0f"),
		balanced("replicas of a member at the end", last.Replicas, 1),
		atMost("shards without all their replicas at the end", float64(last.Under), 0, "%.0f"),
	}
}

// settled claims that nothing is decided any more.
func settled(r Result, long time.Duration) Claim {
	return atLeast("minutes without a decision at the end", r.Quiet.Minutes(), long.Minutes(), "%.0f")
}

// at is the first sample at or after a time.
func (r Result) at(t time.Duration) Sample {
	for _, s := range r.Samples {
		if s.At >= t {
			return s
		}
	}
	return r.Last()
}

// never is later than any run.
const never = 1000 * time.Hour

// WholeAt is when all shards have all their replicas again after a time.
func (r Result) WholeAt(t time.Duration) time.Duration {
	for _, s := range r.Samples {
		if s.At > t && s.Under == 0 {
			return s.At
		}
	}
	return never
}

// EvenAt is when what a function tells of a sample is within a tenth of its mean
// after a time, for good.
func (r Result) EvenAt(t time.Duration, of func(Sample) Spread) time.Duration {
	at := never
	for _, s := range r.Samples {
		if s.At <= t {
			continue
		}
		if x := of(s); x.Off() > 0.1 && x.Max-x.Min > 1 {
			at = never
		} else {
			at = min(at, s.At)
		}
	}
	return at
}
