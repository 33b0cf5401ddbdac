package placement

import (
	"testing"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

func alarm(member uint64, kind kvdpb.Alarm_Type, cause kvdpb.Alarm_Cause) *kvdpb.Alarm {
	return &kvdpb.Alarm{Member: member, Type: kind, Cause: cause}
}

func TestAlarmsStandUntilCleared(t *testing.T) {
	s := servingState(t, 3)
	before := s.View(nil, 1)
	want(t, none, do(s, &kvdpb.RaiseAlarm{Alarm: alarm(2, kvdpb.Alarm_NO_SPACE, kvdpb.Alarm_QUOTA)}))
	want(t, none, do(s, &kvdpb.RaiseAlarm{Alarm: alarm(2, kvdpb.Alarm_NO_SPACE, kvdpb.Alarm_QUOTA)}))
	want(t, none, do(s, &kvdpb.RaiseAlarm{Alarm: alarm(2, kvdpb.Alarm_NO_SPACE, kvdpb.Alarm_DISK)}))
	want(t, none, do(s, &kvdpb.RaiseAlarm{Alarm: alarm(1, kvdpb.Alarm_CORRUPT, kvdpb.Alarm_REQUESTED)}))
	raised := s.View(before, 2)
	require.Empty(t, before.alarms, "old views stay as they were")
	require.False(t, raised.sameNews(before))
	require.Len(t, raised.alarms, 3, "an alarm that stands is raised no second time")
	require.EqualValues(t, 1, raised.alarms[0].Member, "sorted")
	require.NoError(t, s.check())

	// Records and snapshots carry them.
	again, err := StateFromProto(proto.CloneOf(s.Proto()))
	require.NoError(t, err)
	require.True(t, proto.Equal(s.Proto(), again.Proto()))

	// The disk's own alarm ends alone; what a client disarms ends with all its causes.
	want(t, none, do(s, &kvdpb.ClearAlarm{Alarm: alarm(2, kvdpb.Alarm_NO_SPACE, kvdpb.Alarm_DISK)}))
	require.Len(t, s.View(raised, 3).alarms, 2)
	want(t, none, do(s, &kvdpb.RaiseAlarm{Alarm: alarm(2, kvdpb.Alarm_NO_SPACE, kvdpb.Alarm_DISK)}))
	want(t, none, do(s, &kvdpb.ClearAlarm{Alarm: alarm(2, kvdpb.Alarm_NO_SPACE, kvdpb.Alarm_REQUESTED), AnyCause: true}))
	left := s.View(raised, 4)
	require.Len(t, left.alarms, 1)
	require.Equal(t, kvdpb.Alarm_CORRUPT, left.alarms[0].Type)
	require.Len(t, raised.alarms, 3)
	want(t, none, do(s, &kvdpb.ClearAlarm{Alarm: alarm(9, kvdpb.Alarm_NO_SPACE, kvdpb.Alarm_DISK)}))
	require.True(t, s.View(left, 5).sameNews(left), "nothing was cleared")
}

func TestAlarmsAreBounded(t *testing.T) {
	s := servingState(t, 1)
	want(t, invalid, do(s, &kvdpb.RaiseAlarm{}))
	want(t, invalid, do(s, &kvdpb.RaiseAlarm{Alarm: alarm(1, 99, 0)}))
	for i := range maxAlarms {
		want(t, none, do(s, &kvdpb.RaiseAlarm{Alarm: alarm(uint64(i), kvdpb.Alarm_CORRUPT, 0)}))
	}
	want(t, invalid, do(s, &kvdpb.RaiseAlarm{Alarm: alarm(maxAlarms, kvdpb.Alarm_CORRUPT, 0)}))
	require.NoError(t, s.check())
}

func TestDowngradeIsRemembered(t *testing.T) {
	s := servingState(t, 1)
	v := s.View(nil, 1)
	want(t, none, do(s, &kvdpb.Downgrade{Target: "3.6.0"}))
	next := s.View(v, 2)
	require.False(t, next.sameNews(v))
	require.Equal(t, "3.6.0", next.downgrade.GetTarget())
	again, err := StateFromProto(proto.CloneOf(s.Proto()))
	require.NoError(t, err)
	require.Equal(t, "3.6.0", again.downgrade.GetTarget())
	want(t, none, do(s, &kvdpb.Downgrade{}))
	require.Empty(t, s.View(next, 3).downgrade.GetTarget())
}
