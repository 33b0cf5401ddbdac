package placement

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/placement/balance"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Defaults of the cluster's settings.
const (
	defaultReplicas    = 3
	defaultMaxChanges  = 4
	defaultSplitBytes  = 512 << 20
	defaultSplitWrites = 20000
	defaultSpreadCPU   = 80
	defaultMaxSplits   = 6
	defaultMaxHandOver = 12
	// defaultRepairAfter is in minutes. It is longer than a restart takes, a new
	// machine included: what is rebuilt is copied for nothing if the member returns.
	defaultRepairAfter = 30
	defaultMergeBytes  = 16 << 20
	defaultMaxMerges   = 2
)

// Bounds of the cluster's settings.
const (
	maxReplicasSetting = 7
	minSplitBytes      = 1 << 20
	maxSplitBytes      = 1 << 50
	minSplitWrites     = 100
	maxSplitWrites     = 1 << 30
	maxChangesSetting  = 64
	minSpreadCPU       = 10
	maxSpreadCPU       = 100
	maxRate            = 600
	maxRepairAfter     = 7 * 24 * 60
	minMergeBytes      = 1 << 20
	maxMergeBytes      = 64 << 20
)

// Setting is one setting of the cluster, as people see and change it.
type Setting struct {
	Name, Value, Default, Description string
	// Set: it has been set, to whatever value.
	Set bool
}

// ErrNoSetting says that there is no setting of a name.
var ErrNoSetting = errors.New("no such setting")

// setting is a field of kvdpb.ClusterSettings.
type setting struct {
	name, description string
	// value is what holds, set tells whether it was set.
	value func(c *kvdpb.ClusterSettings) (value string, set bool)
	// change sets the field to what a text says; reset takes it back.
	change func(c *kvdpb.ClusterSettings, text string) error
	reset  func(c *kvdpb.ClusterSettings)
	// check refuses values out of bounds.
	check func(c *kvdpb.ClusterSettings) error
}

// settings are all settings, in the order in which they are shown.
var settings = []setting{
	number("replicas", "how many replicas a shard has, where there are voting members enough", defaultReplicas, 1, maxReplicasSetting,
		func(c *kvdpb.ClusterSettings) **uint32 { return &c.Replicas }, plain),
	toggle("repair", "rebuild replicas that are missing or on members that were removed", true,
		func(c *kvdpb.ClusterSettings) **bool { return &c.Repair }),
	number("repair-after-minutes", "how long a member is away until its replicas are rebuilt on others, where there are others", defaultRepairAfter, 1, maxRepairAfter,
		func(c *kvdpb.ClusterSettings) **uint32 { return &c.RepairAfterMinutes }, plain),
	toggle("balance-replicas", "even out the replicas of the members", true,
		func(c *kvdpb.ClusterSettings) **bool { return &c.BalanceReplicas }),
	toggle("owners-follow-sequencer", "shards are owned by the sequencer's member, unless they prefer another one", true,
		func(c *kvdpb.ClusterSettings) **bool { return &c.OwnersFollowSequencer }),
	toggle("balance-owners", "spread owners: where they do not follow the sequencer, or its member is short of CPU", true,
		func(c *kvdpb.ClusterSettings) **bool { return &c.BalanceOwners }),
	number("spread-owners-cpu", "the share of its CPUs, in percent, from which the sequencer's member gives owners away", defaultSpreadCPU, minSpreadCPU, maxSpreadCPU,
		func(c *kvdpb.ClusterSettings) **uint32 { return &c.SpreadOwnersCpu }, plain),
	toggle("split-by-size", "split shards that have grown larger than split-bytes", true,
		func(c *kvdpb.ClusterSettings) **bool { return &c.SplitBySize }),
	number("split-bytes", "the size at which a shard is split", defaultSplitBytes, minSplitBytes, maxSplitBytes,
		func(c *kvdpb.ClusterSettings) **uint64 { return &c.SplitBytes }, size),
	toggle("split-by-load", "split shards that are written faster than split-writes, for a while", false,
		func(c *kvdpb.ClusterSettings) **bool { return &c.SplitByLoad }),
	number("split-writes", "the writes per second at which a shard is split", defaultSplitWrites, minSplitWrites, maxSplitWrites,
		func(c *kvdpb.ClusterSettings) **uint64 { return &c.SplitWrites }, plain),
	toggle("merge-small", "merge neighbours that have long been cold and together take no more than merge-bytes", false,
		func(c *kvdpb.ClusterSettings) **bool { return &c.MergeSmall }),
	number("merge-bytes", "the size up to which cold neighbours are merged, at most a quarter of split-bytes", defaultMergeBytes, minMergeBytes, maxMergeBytes,
		func(c *kvdpb.ClusterSettings) **uint64 { return &c.MergeBytes }, size),
	number("max-changes", "how many changes of replicas the scheduler has under way at once, for every eight members", defaultMaxChanges, 1, maxChangesSetting,
		func(c *kvdpb.ClusterSettings) **uint32 { return &c.MaxChanges }, plain),
	number("max-splits-per-minute", "how many splits the scheduler begins in a minute", defaultMaxSplits, 1, maxRate,
		func(c *kvdpb.ClusterSettings) **uint32 { return &c.MaxSplitsPerMinute }, plain),
	number("max-merges-per-minute", "how many merges the scheduler begins in a minute", defaultMaxMerges, 1, maxRate,
		func(c *kvdpb.ClusterSettings) **uint32 { return &c.MaxMergesPerMinute }, plain),
	number("max-transfers-per-minute", "how many transfers of owners the scheduler begins in a minute", defaultMaxHandOver, 1, maxRate,
		func(c *kvdpb.ClusterSettings) **uint32 { return &c.MaxTransfersPerMinute }, plain),
}

// toggle is a setting that is on or off.
func toggle(name, description string, def bool, field func(*kvdpb.ClusterSettings) **bool) setting {
	show := map[bool]string{true: "on", false: "off"}
	return setting{
		name: name, description: description,
		value: func(c *kvdpb.ClusterSettings) (string, bool) {
			f := *field(c)
			return show[orDefault(f, def)], f != nil
		},
		change: func(c *kvdpb.ClusterSettings, text string) error {
			switch text {
			case "on", "true":
				*field(c) = proto.Bool(true)
			case "off", "false":
				*field(c) = proto.Bool(false)
			default:
				return fmt.Errorf("%s: %q is neither on nor off", name, text)
			}
			return nil
		},
		reset: func(c *kvdpb.ClusterSettings) { *field(c) = nil },
		check: func(*kvdpb.ClusterSettings) error { return nil },
	}
}

// unit is how a number is shown and read.
type unit struct {
	show func(uint64) string
	read func(string) (uint64, error)
}

var (
	plain = unit{
		func(n uint64) string { return strconv.FormatUint(n, 10) },
		func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) },
	}
	size = unit{
		func(n uint64) string {
			for _, u := range []struct {
				bytes uint64
				name  string
			}{{1 << 30, "GiB"}, {1 << 20, "MiB"}} {
				if n >= u.bytes && n%u.bytes == 0 {
					return fmt.Sprint(n/u.bytes, u.name)
				}
			}
			return strconv.FormatUint(n, 10)
		},
		humanize.ParseBytes,
	}
)

// number is a setting between two bounds.
func number[N uint32 | uint64](name, description string, def, low, high N, field func(*kvdpb.ClusterSettings) **N, u unit) setting {
	within := func(n uint64) error {
		if n < uint64(low) || n > uint64(high) {
			return fmt.Errorf("%s: %s is not between %s and %s", name, u.show(n), u.show(uint64(low)), u.show(uint64(high)))
		}
		return nil
	}
	return setting{
		name: name, description: description,
		value: func(c *kvdpb.ClusterSettings) (string, bool) {
			f := *field(c)
			return u.show(uint64(orDefault(f, def))), f != nil
		},
		change: func(c *kvdpb.ClusterSettings, text string) error {
			n, err := u.read(text)
			if err != nil {
				return fmt.Errorf("%s: %q is not a number", name, text)
			}
			if err := within(n); err != nil {
				return err
			}
			value := N(n)
			*field(c) = &value
			return nil
		},
		reset: func(c *kvdpb.ClusterSettings) { *field(c) = nil },
		check: func(c *kvdpb.ClusterSettings) error {
			if f := *field(c); f != nil {
				return within(uint64(*f))
			}
			return nil
		},
	}
}

// Settings lists all settings of a cluster.
func Settings(c *kvdpb.ClusterSettings) []Setting {
	all := make([]Setting, len(settings))
	for i, s := range settings {
		all[i] = s.shown(c)
	}
	return all
}

func (s setting) shown(c *kvdpb.ClusterSettings) Setting {
	out := Setting{Name: s.name, Description: s.description}
	out.Value, out.Set = s.value(c)
	out.Default, _ = s.value(&kvdpb.ClusterSettings{})
	return out
}

// ChangeSetting returns the settings with one changed, as that is shown then: to
// the value of a text, or to its default where reset is asked for.
func ChangeSetting(c *kvdpb.ClusterSettings, name, text string, reset bool) (*kvdpb.ClusterSettings, Setting, error) {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.name == name })
	if i < 0 {
		return nil, Setting{}, fmt.Errorf("%w: %q", ErrNoSetting, name)
	}
	s, next := settings[i], proto.CloneOf(c)
	if reset {
		s.reset(next)
	} else if err := s.change(next, text); err != nil {
		return nil, Setting{}, err
	}
	return next, s.shown(next), nil
}

// CheckSettings refuses settings that are out of their bounds.
func CheckSettings(c *kvdpb.ClusterSettings) error {
	var errs []error
	for _, s := range settings {
		errs = append(errs, s.check(c))
	}
	return errors.Join(errs...)
}

// orDefault returns what an optional setting points to.
func orDefault[T any](set *T, def T) T {
	if set != nil {
		return *set
	}
	return def
}

// OwnersFollow tells whether ownerships move to the sequencer's member.
func OwnersFollow(s *kvdpb.ClusterSettings) bool { return orDefault(s.OwnersFollowSequencer, true) }

// RepairAfter is how long a member is away until its replicas are rebuilt elsewhere.
func RepairAfter(s *kvdpb.ClusterSettings) time.Duration {
	return time.Duration(orDefault(s.RepairAfterMinutes, defaultRepairAfter)) * time.Minute
}

// BalanceSettings are the settings of package balance.
func BalanceSettings(c *kvdpb.ClusterSettings) balance.Settings {
	return balance.Settings{
		SplitBySize: orDefault(c.SplitBySize, true), SplitByLoad: orDefault(c.SplitByLoad, false),
		BalanceOwners: orDefault(c.BalanceOwners, true), OwnersFollow: OwnersFollow(c),
		SplitBytes: int64(orDefault(c.SplitBytes, defaultSplitBytes)), SplitWrites: float64(orDefault(c.SplitWrites, defaultSplitWrites)),
		SpreadCPU:    float64(orDefault(c.SpreadOwnersCpu, defaultSpreadCPU)) / 100,
		SplitsPerMin: int(orDefault(c.MaxSplitsPerMinute, defaultMaxSplits)), HandOverPMin: int(orDefault(c.MaxTransfersPerMinute, defaultMaxHandOver)),
		MergeSmall: orDefault(c.MergeSmall, false), MergeBytes: int64(orDefault(c.MergeBytes, defaultMergeBytes)),
		MergesPerMin: int(orDefault(c.MaxMergesPerMinute, defaultMaxMerges)),
	}
}
