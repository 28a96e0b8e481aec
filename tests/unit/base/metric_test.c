#include "test.h"
#include "base/metric.h"

TEST(metrics_of_one_name_are_written_together_once)
{
    qh_metric *a = qh_metric_counter("qhost_a_total", "k=\"1\"", "A.");
    qh_metric *g = qh_metric_gauge("qhost_g", NULL, "G.");
    qh_metric *b = qh_metric_counter("qhost_a_total", "k=\"2\"", "A.");
    CHECK(qh_metric_counter("qhost_a_total", "k=\"1\"", "A.") == a);
    qh_metric_add(a, 3), qh_metric_add(b, 4), qh_metric_set(g, -5);
    static const double bounds[] = {0.1, 1};
    qh_metric *h = qh_metric_histogram("qhost_h_seconds", NULL, "H.", bounds, 2);
    qh_metric_observe(h, 0.1), qh_metric_observe(h, 0.5), qh_metric_observe(h, 9);
    qh_str out = {0};
    qh_metric_write(&out);
    CHECK_STR(qh_str_z(&out),
              "# HELP qhost_a_total A.\n# TYPE qhost_a_total counter\n"
              "qhost_a_total{k=\"1\"} 3\nqhost_a_total{k=\"2\"} 4\n"
              "# HELP qhost_g G.\n# TYPE qhost_g gauge\nqhost_g -5\n"
              "# HELP qhost_h_seconds H.\n# TYPE qhost_h_seconds histogram\n"
              "qhost_h_seconds_bucket{le=\"0.1\"} 1\nqhost_h_seconds_bucket{le=\"1\"} 2\n"
              "qhost_h_seconds_bucket{le=\"+Inf\"} 3\nqhost_h_seconds_sum 9.6\nqhost_h_seconds_count 3\n");
    qh_str_deinit(&out);
}
TEST_MAIN()
