"""Student-teacher detector, with its networks, losses, training crops and training."""

from sklearn_exdd.detectors.student_teacher.detector import StudentTeacherDetector

__all__ = ["StudentTeacherDetector"]
