/* A merge: the right shard freezes, the left one copies it, the right one surrenders, the left one absorbs (shard/mergestate.go, shard/manager/merge.go).
 *
 * The right shard has two members that may own it; an owner that was deposed goes on reading by its lease until that ends, and a new one serves only after that. What is
 * proposed may be logged at any time later, or never. There are two attempts, and the first may be given up at any time.
 *
 * Promised:  a read of the right shard's keys, by whoever serves them, answers with every write that was acknowledged before it began; what was acknowledged is in the left
 *            shard when it absorbs.
 * Live:      once surrendered, the keys are absorbed (ltl live, with weak fairness).
 *
 * Mutations: SERVES_UNTIL_FROZEN (the owner does not stop before it proposes, and spares the wait), COPY_EARLY (before the freeze is applied), NO_ATTEMPT (a Surrender of
 *            any attempt counts), UNFREEZE_LATE (after Surrender), DISCARD_EARLY (before Unfreeze applied), ABSORB_EARLY (before Surrender).
 */
#define NONE 0
#define COPYING 1
#define ABORTING 2
#define SURRENDERED 3
#define WRITES 2
#define CLAIMS 4
#define ATTEMPTS 2

/* The right shard's log. */
byte epoch = 1, serving_epoch = 1;
byte content = 0;            /* the newest write */
byte frozen = 0;             /* the attempt that it is frozen for */
bool surrendered = false;
byte right_over = 0;         /* the largest attempt that is over */
/* Its owners. */
byte owner = 0;
bool serves[2];
byte mine[2];                /* the epoch of each */
/* What was proposed: the epoch that proposed it, by attempt. */
byte freeze[ATTEMPTS + 1], surrender[ATTEMPTS + 1];
bool unfreeze[ATTEMPTS + 1];
/* The left shard's log. */
byte begun = 0, sealed = 0, copied = 0, left_over = 0, left_value = 0;
bool absorbed = false;
/* Placement. */
byte attempt = 0, phase = NONE;

byte acked = 0;              /* the value that clients were told of last */

proctype right(byte m) {
end:
	do
	:: d_step { serves[m] && mine[m] == epoch && frozen == 0 && content < WRITES -> content++; acked = content }
	/* A read by the lease: a deposed owner does not know that it is one. */
	:: d_step { serves[m] -> assert(content >= acked) }
	/* The lease of a deposed owner ends. */
	:: d_step { serves[m] && mine[m] != epoch -> serves[m] = false }
	:: d_step { owner != m && epoch < CLAIMS -> epoch++; owner = m; mine[m] = epoch; serves[m] = false }
	/* It serves once nobody else's lease holds, and only what is not frozen. */
	:: d_step { owner == m && mine[m] == epoch && serving_epoch < epoch && !serves[1 - m] ->
		serving_epoch = epoch; serves[m] = (frozen == 0) }
	:: d_step { phase == COPYING && begun == attempt && serves[m] && mine[m] == epoch && frozen == 0 && right_over < attempt ->
#ifndef SERVES_UNTIL_FROZEN
		serves[m] = false;
#endif
		freeze[attempt] = epoch }
	:: d_step { phase == COPYING && owner == m && serving_epoch == epoch && frozen == attempt && sealed == attempt -> surrender[attempt] = epoch }
	:: d_step { phase == ABORTING && owner == m && serving_epoch == epoch && right_over < attempt -> unfreeze[attempt] = true }
	/* An owner that has stopped and finds the shard as it was begins anew: an epoch that follows directly on its own. */
	:: d_step { owner == m && mine[m] == epoch && serving_epoch == epoch && !serves[m] && frozen == 0 && epoch < CLAIMS ->
		epoch++; serving_epoch = epoch; mine[m] = epoch; serves[m] = true }
	od
}

/* The log takes in what was proposed, whenever it likes. */
proctype log() {
	byte a;
end:
	do
	:: select (a : 1 .. ATTEMPTS);
		if
		:: d_step { freeze[a] == epoch && serving_epoch == epoch && frozen == 0 && a > right_over -> frozen = a }
#ifdef NO_ATTEMPT
		:: d_step { surrender[a] != 0 && frozen != 0 && !surrendered ->
#else
		:: d_step { surrender[a] == epoch && frozen == a && !surrendered ->
#endif
			surrendered = true; assert(sealed == frozen && copied == content) }
#ifdef UNFREEZE_LATE
		:: d_step { unfreeze[a] && a > right_over -> frozen = 0; right_over = a }
#else
		:: d_step { unfreeze[a] && a > right_over && !surrendered -> frozen = 0; right_over = a }
#endif
		:: else
		fi
	od
}

proctype left() {
end:
	do
	:: d_step { phase == COPYING && begun == 0 && left_over < attempt -> begun = attempt }
#ifdef COPY_EARLY
	:: d_step { phase == COPYING && begun == attempt && sealed == 0 -> sealed = attempt; copied = content }
#else
	:: d_step { phase == COPYING && begun == attempt && sealed == 0 && frozen == attempt -> sealed = attempt; copied = content }
#endif
#ifdef DISCARD_EARLY
	:: d_step { phase == ABORTING && left_over < attempt -> begun = 0; sealed = 0; copied = 0; left_over = attempt }
#else
	:: d_step { phase == ABORTING && right_over >= attempt && left_over < attempt -> begun = 0; sealed = 0; copied = 0; left_over = attempt }
#endif
#ifdef ABSORB_EARLY
	:: d_step { phase != NONE && begun == attempt && sealed == attempt && !absorbed ->
#else
	:: d_step { phase == SURRENDERED && begun == attempt && sealed == attempt && !absorbed ->
#endif
		absorbed = true; left_value = copied; assert(left_value >= acked) }
	:: d_step { absorbed && left_value < 2 * WRITES -> left_value++; acked = left_value }
	:: d_step { absorbed -> assert(left_value >= acked) }
	od
}

proctype placement() {
end:
	do
	:: d_step { phase == NONE && attempt < ATTEMPTS && !absorbed -> attempt++; phase = COPYING }
	:: d_step { phase == COPYING && attempt < ATTEMPTS -> phase = ABORTING }
	:: d_step { (phase == COPYING || phase == ABORTING) && surrendered && frozen == attempt -> phase = SURRENDERED }
	:: d_step { phase == ABORTING && right_over >= attempt && left_over >= attempt -> phase = NONE }
	od
}

init {
	atomic {
		serves[0] = true; mine[0] = 1;
		run right(0); run right(1); run log(); run left(); run placement()
	}
}

#ifdef LIVE
ltl live { [] (surrendered -> <> absorbed) }
#endif
