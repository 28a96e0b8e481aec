#include "base/log.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/metric.h"
#include "test.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Standard error is a pipe that the test reads, or does not. */
typedef struct {
    int kept_fd, read_fd;
} stderr_pipe;

static stderr_pipe pipe_open(void)
{
    int fds[2];
    stderr_pipe p = {.kept_fd = dup(STDERR_FILENO)};
    assert_int_equal(pipe(fds), 0);
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
    p.read_fd = fds[0];
    return p;
}

/* Everything that was written; the pipe is closed. */
static char *pipe_close(stderr_pipe *p)
{
    qh_str all = {0};
    char buf[65536];
    dup2(p->kept_fd, STDERR_FILENO);            /* the last writing end goes */
    close(p->kept_fd);
    for (ssize_t n; (n = read(p->read_fd, buf, sizeof buf)) > 0;)
        qh_str_append(&all, buf, (size_t)n);
    close(p->read_fd);
    return qh_str_steal(&all);
}

static int count(const char *text, const char *word)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, word)); p += strlen(word)) n++;
    return n;
}

TEST(lines_reach_stderr_in_order_with_and_without_the_writer)
{
    stderr_pipe p = pipe_open();
    qh_err err = {0};
    qh_info("one", "value=\"%s\"", "a\nb");
    CHECK_OK(qh_log_start(&err));
    qh_info("two", "n=%d", 2);
    qh_debug("hidden", "n=%d", 0);
    qh_log_stop();
    qh_log_stop();
    qh_warn("three", "n=%d", 3);
    char *text = pipe_close(&p);
    char *one = strstr(text, "INFO  one value=\"a b\"\n"), *two = strstr(text, "INFO  two n=2\n"),
         *three = strstr(text, "WARN  three n=3\n");
    CHECK(one && two && three && one < two && two < three);
    CHECK_INT(count(text, "\n"), 3);
    qh_free(text);
}

TEST(a_reader_that_stalls_costs_lines_and_no_time)
{
    enum { N = 30000 };
    stderr_pipe p = pipe_open();
    qh_err err = {0};
    char filler[200];
    memset(filler, 'x', sizeof filler);
    CHECK_OK(qh_log_start(&err));
    int64_t begin = qh_now_us();
    for (int i = 0; i < N; i++) qh_info("line", "n=%d %.*s", i, (int)sizeof filler, filler);
    int64_t us = qh_now_us() - begin;
    qh_metric *dropped = qh_metric_counter("qhost_log_dropped_total", NULL, "");
    int64_t n_dropped = qh_metric_value(dropped);
    CHECK(n_dropped > N / 2);
    CHECK(us < 2000000);                        /* a write that waits would never end */
    qh_str all = {0};
    char buf[65536];
    while (all.len < 3 << 19) {                 /* the reader is back: room again */
        ssize_t n = read(p.read_fd, buf, sizeof buf);
        CHECK(n > 0);
        qh_str_append(&all, buf, (size_t)n);
    }
    qh_info("after", "n=%d", 1);
    fcntl(p.read_fd, F_SETPIPE_SZ, 1 << 20);
    qh_log_stop();
    char *rest = pipe_close(&p);
    qh_str_append_z(&all, rest);
    qh_free(rest);
    char *text = qh_str_steal(&all);
    CHECK(strstr(text, "after n=1"));
    int64_t n_told = 0;
    for (const char *at = text; (at = strstr(at, "log.dropped lines="));) n_told += atoll(at += 18);
    CHECK_INT(n_told, n_dropped);
    qh_free(text);
}

TEST(stopping_does_not_wait_for_a_reader_forever)
{
    stderr_pipe p = pipe_open();
    qh_err err = {0};
    CHECK_OK(qh_log_start(&err));
    for (int i = 0; i < 5000; i++) qh_info("line", "n=%d", i);
    int64_t begin = qh_now_us();
    qh_log_stop();
    CHECK(qh_now_us() - begin < 5000000);
    qh_free(pipe_close(&p));
}

TEST_MAIN()
