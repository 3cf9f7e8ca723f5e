/*
 * pause: the process that holds a pod's namespaces open while its containers come and go.
 *
 * It is PID 1 of the sandbox (and of the whole pod where the PID namespace is shared), so it reaps orphans, and ends at
 * SIGTERM or SIGINT, which the kernel would otherwise ignore for a PID 1. It does nothing else.
 *
 * Ours rather than upstream's, because upstream's comes from a registry only and the build reaches none. In C without a
 * libc rather than in Rust, because there is one for each pod: this way it is a few kilobytes of program and a few pages
 * of memory.
 *
 * All signals stay blocked and are taken with rt_sigtimedwait(2): a blocked signal is queued even where its default
 * would be to be ignored (signal(7)), so none is lost between two rounds.
 */
#include <asm/unistd.h>
#include <linux/signal.h>
#include <linux/wait.h>

static long call(long number, long a, long b, long c, long d)
{
	register long fourth __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
			 : "rcx", "r11", "memory");
	return result;
}

void _start(void)
{
	/* The kernel's set of 64 signals; bit n-1 is signal n. */
	unsigned long all = ~0UL;

	call(__NR_rt_sigprocmask, SIG_BLOCK, (long)&all, 0, sizeof(all));
	for (;;) {
		long taken = call(__NR_rt_sigtimedwait, (long)&all, 0, 0, sizeof(all));

		if (taken == SIGTERM || taken == SIGINT)
			call(__NR_exit_group, 0, 0, 0, 0);
		/* One SIGCHLD may stand for several children. */
		while (taken == SIGCHLD && call(__NR_wait4, -1, 0, WNOHANG, 0) > 0)
			;
	}
}
