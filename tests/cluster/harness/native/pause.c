/* The program of a pod's sandbox container: it holds the pod's namespaces open, reaps what is left to it and ends
 * when told to. Signals are awaited instead of handled, so that nothing happens inside a signal handler. */
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>

int main(void)
{
	sigset_t awaited;
	int signal_number;

	sigemptyset(&awaited);
	sigaddset(&awaited, SIGINT);
	sigaddset(&awaited, SIGTERM);
	sigaddset(&awaited, SIGCHLD);
	sigprocmask(SIG_BLOCK, &awaited, NULL);
	for (;;) {
		if (sigwait(&awaited, &signal_number) != 0)
			return 1;
		if (signal_number != SIGCHLD)
			return 0;
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}
