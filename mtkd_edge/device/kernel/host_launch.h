// After score.cu: its launch as a C function for ctypes. Arguments of the kernel as on a GPU, then the launch.
static struct {
    Features features;
    float *distances;
    unsigned *tickets;
    float *map, *scores;
    unsigned *verdicts;
    double threshold, map_threshold;
    int batch;
} given;

extern "C" int launch(const void *const *features, float *distances, unsigned *tickets, float *map, float *scores,
                      unsigned *verdicts, double threshold, double map_threshold, int batch,
                      unsigned grid, unsigned block, unsigned shared_bytes, unsigned schedule) {
    memcpy(&given.features, features, sizeof given.features);
    given.distances = distances;
    given.tickets = tickets;
    given.map = map;
    given.scores = scores;
    given.verdicts = verdicts;
    given.threshold = threshold;
    given.map_threshold = map_threshold;
    given.batch = batch;
    return run_grid(grid, block, shared_bytes, schedule, [] {
        score(given.features, given.distances, given.tickets, given.map, given.scores, given.verdicts, given.threshold,
              given.map_threshold, given.batch);
    });
}
