"""The lab: photos of good parts -> teachers, student, bundle. Needs the extra `train`."""
