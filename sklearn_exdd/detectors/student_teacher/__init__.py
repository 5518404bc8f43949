"""The student-teacher: networks, losses, crops and the training of the detector."""

from sklearn_exdd.detectors.student_teacher.detector import StudentTeacherDetector

__all__ = ["StudentTeacherDetector"]
