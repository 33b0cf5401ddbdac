/* Anchor commit over two shards, beside writes of one shard, changes of owners, coordinators that vanish, and a reader (router's coordinator, shard's Prepare and pipeline).
 *
 * Shard 0 holds the keys 0 and 1, shard 1 the keys 2 and 3; shard 1 is the last in key order, so it is the anchor. Transaction 0 compares key 0 (and, with PUTS, writes it) and writes key 2; transaction 1
 * writes the keys 1 and 3. Writer 0 writes key 0, writer 1 key 1. What a shard applies, it applies in one step; what matters is what may come between the steps. A shard's owner may be deposed at any
 * time: latches and evaluations that rest on them are gone, Prepares and allotted writes are in the log and stay.
 *
 * Promised:  revisions are applied in order in every shard; a transaction commits only if its compare holds at its revision; no participant applies
 *            what another one aborts; a reader at R sees all of a transaction at or below R and nothing of one above.
 * Live:      every transaction is decided and every decision applied, whoever vanishes (ltl live, with weak fairness).
 *
 * Mutations: HOLD_AT_PROPOSAL, ANCHOR_FIRST, NO_PREPARE_COMPARE, NO_ABORT_ENTRY, READ_NO_WAIT, LATCHES_VANISH.
 * Variants:  PUTS (transaction 0 writes what it compares), READER (a reader instead of the writers), STAYS (coordinators do not vanish and nobody aborts a transaction whose
 *            coordinator is there: then order alone has to keep them from waiting for each other).
 */
#define FREE 255
#define NONE 0
#define COMMITTED 1
#define ABORTED 2

byte next = 1;         /* the sequencer's next revision */
byte version[4];       /* the revision of each key's last write */
byte last[2];          /* the last revision that each shard applied */
byte latch[4] = FREE;  /* who holds the latch of a key */
byte asked[2];         /* whether a write was given a revision and is not applied yet; the pipeline takes one at a time */
byte epoch[2];         /* of the owners */
byte record[2];        /* what the anchor's log says of each transaction */
byte rev[2];           /* the revision of each transaction, once it has one */
bool committing[2];    /* its commit is in the anchor's pipeline */
bool prepared[2];      /* it has an undecided or unapplied Prepare at its participant */
bool learned[2];       /* the participant knows of the decision */
bool gone[2];          /* its coordinator is gone */
bool finished[2];      /* decided, and applied wherever it has to be */
byte deposed = 0;

#ifdef ANCHOR_FIRST
/* Transaction 0 is anchored at shard 0, which its participant is then shard 1. */
#define ANCHOR(t) (t == 0 -> 0 : 1)
#else
#define ANCHOR(t) 1
#endif
#define PART(t) (1 - ANCHOR(t))
/* A shard with a Prepare asks for no revision. */
#define HELD(s) ((prepared[0] && PART(0) == s) || (prepared[1] && PART(1) == s))
#ifdef STAYS
#define MAY_ABORT(t) gone[t]
#else
#define MAY_ABORT(t) true
#endif
#define KEY(t, s) (2 * (s) + (t))

/* Latches of writers are their number and 10, those of transactions their number. */
inline write(k, r) {
	assert(r > last[k / 2]); /* a shard applies revisions in order */
	last[k / 2] = r;
	version[k] = r
}

proctype transaction(byte t) {
	byte e0, e1, seen;
	/* Latches in the order of keys. */
	atomic { latch[KEY(t, 0)] == FREE -> latch[KEY(t, 0)] = t; e0 = epoch[0] }
	if
	:: atomic { latch[KEY(t, 1)] == FREE -> latch[KEY(t, 1)] = t; e1 = epoch[1] }
	:: d_step { epoch[0] != e0 -> skip }; goto give_up
	fi;
	d_step { seen = version[KEY(t, 0)] };
#ifdef NO_PREPARE_COMPARE
	if
	:: t == 0 -> goto anchor /* it only compares at its participant */
	:: else
	fi;
#endif
	/* The Prepare takes its place behind every write that was given a revision. It is refused by an owner that does not hold the latch any more. */
	if
	:: atomic { epoch[PART(t)] == (PART(t) == 0 -> e0 : e1) && asked[PART(t)] == 0 -> prepared[t] = true }
	:: d_step { epoch[PART(t)] != (PART(t) == 0 -> e0 : e1) -> skip }; goto give_up
	fi;
#ifdef NO_PREPARE_COMPARE
anchor:
#endif
	if
	/* The anchor asks for a revision only when no Prepare of its shard is open, and only with its latch. */
	:: atomic { epoch[ANCHOR(t)] == (ANCHOR(t) == 0 -> e0 : e1) && !HELD(ANCHOR(t)) && asked[ANCHOR(t)] == 0 && record[t] == NONE ->
		rev[t] = next; next++; committing[t] = true; asked[ANCHOR(t)]++ };
		/* The commit point. A transaction that was declared aborted meanwhile stays so. */
		d_step {
			asked[ANCHOR(t)]--;
			committing[t] = false;
			if
			:: record[t] == NONE ->
				record[t] = COMMITTED;
				assert(t != 0 || version[0] == seen); /* the compare holds at its revision */
				write(KEY(t, ANCHOR(t)), rev[t]);
				latch[KEY(t, ANCHOR(t))] = FREE
#ifdef NO_PREPARE_COMPARE
				; if
				:: t == 0 -> finished[t] = true; if :: latch[0] == 0 -> latch[0] = FREE :: else fi
				:: else
				fi
#endif
			:: else
			fi
		}
	/* Its anchor's owner was deposed, or the coordinator vanishes. */
	:: d_step { epoch[ANCHOR(t)] != (ANCHOR(t) == 0 -> e0 : e1) || record[t] != NONE -> skip }; goto give_up
#ifndef STAYS
	:: goto give_up
#endif
	fi;
	goto end;
give_up:
	skip;
	d_step {
		/* What is prepared is left to recovery. */
		gone[t] = true;
		if
		:: latch[KEY(t, ANCHOR(t))] == t -> latch[KEY(t, ANCHOR(t))] = FREE
		:: else
		fi;
		if
		:: !prepared[t] -> if :: latch[KEY(t, PART(t))] == t -> latch[KEY(t, PART(t))] = FREE :: else fi; finished[t] = true
		:: else
		fi
	}
end:
	skip
}

/* Somebody asks the anchor about an open Prepare, and tells its shard. */
proctype recovery(byte t) {
end:
	do
	/* "No record, so it is aborted" is an entry of the anchor's log; a commit that is under way there is waited for. */
	:: d_step { prepared[t] && record[t] == NONE && !committing[t] && MAY_ABORT(t) ->
#ifdef NO_ABORT_ENTRY
		prepared[t] = false; if :: latch[KEY(t, PART(t))] == t -> latch[KEY(t, PART(t))] = FREE :: else fi
#else
		record[t] = ABORTED
#endif
		}
	:: d_step { prepared[t] && record[t] != NONE && !learned[t] -> learned[t] = true }
	:: d_step { prepared[t] && learned[t] && record[t] == ABORTED -> prepared[t] = false; finished[t] = true; if :: latch[KEY(t, PART(t))] == t -> latch[KEY(t, PART(t))] = FREE :: else fi }
	/* A decided Prepare is applied once every other one of its shard is decided with a larger revision, or gone. */
	:: d_step { prepared[t] && learned[t] && record[t] == COMMITTED && (!prepared[1 - t] || PART(1 - t) != PART(t) || (learned[1 - t] && (record[1 - t] == ABORTED || rev[1 - t] > rev[t]))) ->
#ifdef PUTS
		write(KEY(t, PART(t)), rev[t]);
#else
		if :: t == 1 -> write(KEY(t, PART(t)), rev[t]) :: else fi;
#endif
		prepared[t] = false; finished[t] = true; if :: latch[KEY(t, PART(t))] == t -> latch[KEY(t, PART(t))] = FREE :: else fi }
	:: finished[t] && !prepared[t] -> break
	od
}

proctype writer(byte k) {
	byte r, e, seen;
	atomic { latch[k] == FREE -> latch[k] = k + 10; e = epoch[0]; seen = version[k] };
#ifdef HOLD_AT_PROPOSAL
	if
	:: atomic { epoch[0] == e && asked[0] == 0 -> r = next; next++ };
		if
		:: d_step { epoch[0] == e && !HELD(0) -> write(k, r); if :: latch[k] == k + 10 -> latch[k] = FREE :: else fi }
		:: d_step { epoch[0] != e -> skip }
		fi
	:: d_step { epoch[0] != e -> skip }
	fi
#else
	/* Hold-back: with a Prepare in its shard it does not even ask for a revision. */
	if
	:: atomic { epoch[0] == e && !HELD(0) && asked[0] == 0 -> r = next; next++; asked[0]++ };
		d_step { asked[0]--; assert(version[k] == seen); /* it was evaluated against this */ write(k, r); if :: latch[k] == k + 10 -> latch[k] = FREE :: else fi }
	:: d_step { epoch[0] != e -> if :: latch[k] == k + 10 -> latch[k] = FREE :: else fi }
	fi
#endif
}

/* The owner of a shard is deposed. The next one takes the latches of all Prepares that are not applied. */
proctype depose() {
end:
	do
	:: d_step { deposed < 1 && asked[0] == 0 ->
		deposed++; epoch[0]++;
#ifdef LATCHES_VANISH
		latch[0] = FREE; latch[1] = FREE
#else
		if :: prepared[0] && PART(0) == 0 -> latch[0] = 0 :: else -> latch[0] = FREE fi;
		if :: prepared[1] && PART(1) == 0 -> latch[1] = 1 :: else -> latch[1] = FREE fi
#endif
		}
	:: d_step { deposed < 1 && asked[1] == 0 ->
		deposed++; epoch[1]++;
		if :: prepared[0] && PART(0) == 1 -> latch[2] = 0 :: else -> latch[2] = FREE fi;
		if :: prepared[1] && PART(1) == 1 -> latch[3] = 1 :: else -> latch[3] = FREE fi
		}
	od
}

#ifdef READER
/* It reads the keys 1 and 3 at R, as a range over both shards does. */
proctype reader() {
	byte r, v1, v3;
	d_step { r = next - 1 };
#ifndef READ_NO_WAIT
	/* Every Prepare that is applied by now has to be decided and its decision applied; writes that were given a revision have to be applied. */
	asked[0] == 0 && !HELD(0);
#endif
	d_step { v1 = version[1] };
#ifndef READ_NO_WAIT
	asked[1] == 0 && !HELD(1);
#endif
	d_step { v3 = version[3] };
	/* Old versions are there to be read: what lies above R is left out. */
	assert(!(rev[1] != 0 && record[1] == COMMITTED && rev[1] <= r) || (v1 >= rev[1] && v3 >= rev[1]))
}
#endif

init {
	atomic {
		run transaction(0); run transaction(1);
		run recovery(0); run recovery(1);
		run depose();
#ifdef READER
		run reader()
#else
		run writer(0); run writer(1)
#endif
	}
}

#ifdef LIVE
ltl live { <> (finished[0] && finished[1]) }
#endif
