package config

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// AutoCompaction reads how much history automatic compaction keeps: a time with the mode "periodic", a number of
// revisions with "revision". Both are 0 where it is off. As in etcd a number alone means hours, or revisions.
func (c *Config) AutoCompaction() (period time.Duration, revisions int64, err error) {
	n, err := strconv.ParseInt(c.AutoCompactionRetention, 10, 64)
	switch {
	case err == nil && n >= 0 && c.AutoCompactionMode == "revision":
		return 0, n, nil
	case err == nil && n >= 0 && n <= math.MaxInt64/int64(time.Hour):
		return time.Duration(n) * time.Hour, 0, nil
	case err != nil && c.AutoCompactionMode != "revision":
		if period, err = time.ParseDuration(c.AutoCompactionRetention); err == nil && period >= 0 {
			return period, 0, nil
		}
	}
	return 0, 0, fmt.Errorf("error parsing CompactionRetention: invalid %q", c.AutoCompactionRetention)
}
