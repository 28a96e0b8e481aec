#include "test.h"
#include "base/clock.h"
#include "base/log.h"
#include <fcntl.h>
#include <unistd.h>

/* stderr becomes the writing end of a pipe; returns the reading end. */
static int watch_stderr(int *kept)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    *kept = dup(STDERR_FILENO);
    CHECK(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
    close(ends[1]);
    CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
    return ends[0];
}

static void restore_stderr(int kept, int reader)
{
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(reader);
}

static char text[1 << 20];

static size_t read_all(int fd)
{
    size_t n = 0;
    for (ssize_t got; (got = read(fd, text + n, sizeof text - 1 - n)) > 0;) n += (size_t)got;
    text[n] = 0;
    return n;
}

static int count(const char *word)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, word)); p++) n++;
    return n;
}

TEST(a_reader_that_sleeps_costs_lines_and_no_time)
{
    enum { N_LINES = 4000 };        /* of 60 bytes and more: a pipe holds 64 KB */
    int kept, reader = watch_stderr(&kept), n_lost = 0;
    int64_t begun_us = qh_now_us();
    for (int i = 0; i < N_LINES; i++) qh_info("test.line", "number=%d", i);
    int64_t took_us = qh_now_us() - begun_us;
    read_all(reader);
    int n_first = count("test.line");
    qh_info("test.after", "awake=1");
    read_all(reader);
    const char *note = strstr(text, "log.dropped lines="), *after = strstr(text, "test.after");
    if (note) n_lost = atoi(note + strlen("log.dropped lines="));
    restore_stderr(kept, reader);
    CHECK(took_us < 2000000);
    CHECK(n_first > 100 && n_first < N_LINES);
    CHECK(note && after && note < after);
    CHECK_INT(n_first + n_lost, N_LINES);
}

TEST(control_bytes_of_a_value_forge_no_line)
{
    int kept, reader = watch_stderr(&kept);
    qh_info("test.value", "path=\"%s\"", "a\nb\x1b[2J");
    read_all(reader);
    restore_stderr(kept, reader);
    CHECK(strstr(text, "path=\"a b [2J\"\n"));
    CHECK_INT(count("\n"), 1);
}
TEST_MAIN()
