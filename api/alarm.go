package api

import (
	"context"
	"errors"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// alarmTypes are etcd's alarms in kvd's words.
var alarmTypes = map[pb.AlarmType]kvdpb.Alarm_Type{
	pb.AlarmType_NOSPACE: kvdpb.Alarm_NO_SPACE,
	pb.AlarmType_CORRUPT: kvdpb.Alarm_CORRUPT,
}

// AlarmMembers shows alarms as etcd's clients know them: those of one member and
// type are one, whatever their causes.
func AlarmMembers(standing []*kvdpb.Alarm) []*pb.AlarmMember {
	var shown []*pb.AlarmMember
	for _, a := range standing {
		m := &pb.AlarmMember{MemberID: a.Member}
		for etcd, own := range alarmTypes {
			if own == a.Type {
				m.Alarm = etcd
			}
		}
		if n := len(shown); n > 0 && shown[n-1].MemberID == m.MemberID && shown[n-1].Alarm == m.Alarm {
			continue // the list is sorted by member and type
		}
		shown = append(shown, m)
	}
	return shown
}

// Alarm implements pb.MaintenanceServer.
func (s *maintenanceServer) Alarm(ctx context.Context, req *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	wait, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	resp := &pb.AlarmResponse{Header: s.header(s.storage().Revision)}
	kind, known := alarmTypes[req.Alarm]
	alarm := &kvdpb.Alarm{Member: req.MemberID, Type: kind}
	var err error
	switch req.Action {
	case pb.AlarmRequest_GET:
		if err = s.cluster.Barrier(wait); err != nil {
			break
		}
		for _, m := range AlarmMembers(s.cluster.StandingAlarms()) {
			if req.Alarm == pb.AlarmType_NONE || req.Alarm == m.Alarm {
				resp.Alarms = append(resp.Alarms, m)
			}
		}
	case pb.AlarmRequest_ACTIVATE:
		if !known {
			break
		}
		if err = s.cluster.RaiseAlarm(wait, alarm); err == nil {
			resp.Alarms = append(resp.Alarms, &pb.AlarmMember{MemberID: req.MemberID, Alarm: req.Alarm})
		}
	case pb.AlarmRequest_DEACTIVATE:
		if err = s.cluster.Barrier(wait); err != nil || !s.stands(alarm) {
			break
		}
		if err = s.cluster.ClearAlarm(wait, alarm, true); err == nil {
			s.guard.Cleared()
			resp.Alarms = append(resp.Alarms, &pb.AlarmMember{MemberID: req.MemberID, Alarm: req.Alarm})
		}
	default:
		err = status.Errorf(codes.InvalidArgument, "kvd: unknown alarm action %d", req.Action)
	}
	if err != nil {
		return nil, clusterError(ctx, err)
	}
	return resp, nil
}

func (s *maintenanceServer) stands(alarm *kvdpb.Alarm) bool {
	for _, a := range s.cluster.StandingAlarms() {
		if a.Member == alarm.Member && a.Type == alarm.Type {
			return true
		}
	}
	return false
}

// clusterError gives an error of a change of the cluster the code and text that a
// client of etcd knows. ctx is the client's.
func clusterError(ctx context.Context, err error) error {
	var rejected *placement.RejectedError
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.As(err, &rejected):
		return status.Errorf(codes.FailedPrecondition, "kvd: %s", rejected.Reason)
	case errors.Is(err, placement.ErrClosed):
		return rpctypes.ErrGRPCStopped
	case errors.Is(err, context.DeadlineExceeded):
		return rpctypes.ErrGRPCTimeout
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Errorf(codes.Unknown, "kvd: %v", err)
}
